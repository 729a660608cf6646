"""The plan refuses what the worker would: each refusal of the worker, by the place in its code that raises it."""

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.contract import errors
from service.contract.errors import TaskslimError
from service.contract.request.job_request import JobRequest
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from tests.support import checkpoints
from tests.support.pipeline_jobs import Deployment
from tests.support.refusals.by_contract import BY_CONTRACT
from tests.support.refusals.by_worker import CASES
from tests.support.refusals.case import Case, Site

WORKER = Path(__file__).parents[1] / "worker"
REFUSING = {
    name
    for name, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, TaskslimError) and error.status == 422
}
BUILDERS = {"unreachable", "own_code", "refused", "_too_long", "type"}  # functions that make such an error


def sites() -> set[Site]:
    """Every function of the worker that raises an error of `REFUSING`."""
    found = set()
    for path in WORKER.rglob("*.py"):
        module = ".".join(path.relative_to(WORKER).with_suffix("").parts)
        for function, raised in _raises(ast.parse(path.read_text())):
            if raised in REFUSING | BUILDERS:
                found.add(Site(module, function))
    return found


def _raises(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name of the function, name of what it raises) of every raise statement."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    yield function.name, _name(node.exc)


def _name(expression: ast.expr) -> str:
    while isinstance(expression, ast.Call):
        expression = expression.func
    return expression.attr if isinstance(expression, ast.Attribute) else getattr(expression, "id", "")


TOKENS = "the tokens of a text are not known without the tokenizer"
MEASURED = "the model has to be run"
CHAT_TEMPLATE = "a chat template is code, which the worker alone runs"
APPLY = "the command `taskslim apply`, which is no request"
REBASE = "the command `taskslim rebase-adapter`, which is no request"
ONLY_WORKER: dict[Site, str] = {
    Site("data.tokenising", "_causal"): TOKENS,
    Site("data.tokenising", "_ended"): TOKENS,
    Site("data.tagged_texts", "encode"): TOKENS,
    Site("data.prompts", "_check_candidates"): TOKENS,
    Site("data.prompts", "_shorten"): TOKENS,
    Site("data.embedded_texts", "_tokens"): TOKENS,
    Site("data.plain_texts", "_example"): TOKENS,
    Site("data.chat_templates", "prompt_and_answer"): CHAT_TEMPLATE,
    Site("data.chat_templates", "_render"): CHAT_TEMPLATE,
    Site("data.wordings", "_chat"): CHAT_TEMPLATE,
    Site("data.chats", "_named"): CHAT_TEMPLATE,
    Site("data.chats", "_written"): CHAT_TEMPLATE,
    Site("data.batching", "padding"): "generation_config.json may name the token instead of config.json",
    Site("evaluation.answer_scores", "score"): MEASURED,
    Site("recovery.training", "run"): MEASURED,
    Site("stages.pseudo_labels", "_check_every_label_is_given"): MEASURED,
    Site("stages.pseudo_labels", "_check_some_label_is_given"): MEASURED,
    Site("sources.gguf", "_open"): "a plan does not read GGUF files",
    Site("sources.gguf", "_refusing_contradictions"): "a plan does not read GGUF files",
    Site("checkpoints.vocabularies", "tokenizer_file"): "the worker alone knows which class reads a tokenizer",
    Site("checkpoints.vocabularies", "slim_vocabulary"): "the worker alone runs the class of a tokenizer",
    Site("checkpoints.loading", "_check_finite"): "a plan does not read the values of the weights",
    Site("sources.dequantisation", "dequantise"): "a plan does not read the values of the weights",
    Site("sources.dequantisation", "_tensor"): "a plan does not read the values of the weights",
    Site("search.metric_floor", "_check_dense"): MEASURED,
    Site("quantisation.precisions", "check_precision_packages"): "the API does not know what is installed for a worker",
    Site("exports.packages", "check_packages"): "the API does not know what is installed where the worker runs",
    **{
        Site("checkpoints.kept_indices", name): APPLY
        for name in ("read_kept", "_check_base", "_check_indices", "_run", "check_empty")
    },
    **{
        Site("checkpoints.adapters.rebasing", name): REBASE
        for name in ("_check_kind", "_check_names", "_cut", "_kept", "dense_skeleton", "_check_origin", "_run")
    },
}


def test_every_refusal_of_the_worker_is_compared_or_explained() -> None:
    assert {case.site for case in CASES.values()} | ONLY_WORKER.keys() == sites()


def request_of(deployment: Deployment, case: Case) -> JobRequest:
    checkpoints.write(deployment.root / case.family, case.family)
    case.prepare(deployment.root / case.family)
    fields = json.loads(json.dumps(case.fields).replace("MODEL", (deployment.root / case.family).as_uri()))
    return deployment.request(case.family, **fields)


@pytest.mark.parametrize("name", CASES | BY_CONTRACT)
def test_a_plan_refuses_what_the_worker_refuses(name: str, tmp_path: Path) -> None:
    deployment, case = Deployment(tmp_path), (CASES | BY_CONTRACT)[name]
    request = request_of(deployment, case)
    with pytest.raises(TaskslimError) as by_plan:
        plan(request, Access(deployment.storage, "default", local_paths=True))
    stored, files = take_rows(request, "job")
    for dataset, lines in files.items():
        deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    with pytest.raises(TaskslimError) as by_worker:
        deployment.run(stored)
    assert (by_plan.value.code, by_plan.value.param) == (case.code, case.param)
    assert (by_worker.value.code, by_worker.value.param) == (case.code, case.param)
