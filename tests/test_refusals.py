"""The plan refuses what the worker would: each refusal of the worker, by the place in its code that raises it."""

import ast
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import Lowercase

from service.contract import errors
from service.contract.errors import TaskslimError
from service.contract.request import JobRequest
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from tests.support import checkpoints
from tests.support.chat_templates import USABLE, add_chat_template
from tests.support.pipeline_jobs import Deployment
from tests.support.tiny_models import causal, encoder
from worker.checkpoints.model_classes.per_layer import to_loadable_class
from worker.slimming import surgery
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.units import Site as UnitSite

WORKER = Path(__file__).parents[1] / "worker"
REFUSING = {
    name
    for name, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, TaskslimError) and error.status == 422
}
BUILDERS = {"unreachable", "own_code", "refused", "_too_long", "type"}  # functions that make such an error


class Site(NamedTuple):
    """A function of the worker that raises errors for requests."""

    module: str
    function: str


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


@dataclass
class Case:
    """A request that is refused: `prepare` changes the files of its model, `fields` its fields."""

    site: Site
    code: str
    param: str
    fields: dict[str, Any] = field(default_factory=dict)
    family: str = "llama"
    prepare: Callable[[Path], object] = lambda directory: None


def rows(*labels: str) -> dict[str, Any]:
    return {"rows": [{"text": "good film", "label": label} for label in labels]}


def targets(*values: Any) -> dict[str, Any]:
    return {"rows": [{"text": "good film", "target": value} for value in values]}


def one_head(directory: Path) -> None:
    causal("llama", num_key_value_heads=1).save_pretrained(directory)


def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    """Changes fields of a JSON file of the model."""

    def edit(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def written(name: str, content: bytes | None) -> Callable[[Path], None]:
    """Writes a file of the model in place of its own; None deletes it."""

    def write(directory: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        if content is not None:
            (directory / name).write_bytes(content)

    return write


def all_of(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        for each in changes:
            each(directory)

    return change


def extra_token(directory: Path) -> None:
    """Adds a token to the tokenizer that the embedding lacks."""
    tokenizer = checkpoints.tokenizer()
    tokenizer.add_tokens(["<review>"])
    tokenizer.save_pretrained(directory)
    edited("config.json", vocab_size=len(tokenizer) - 1)(directory)


def lowercased(directory: Path) -> None:
    """Lets the tokenizer write all letters small, which llama.cpp does not do."""
    tokenizer = checkpoints.tokenizer()
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    tokenizer.save_pretrained(directory)


def own_widths(directory: Path) -> None:
    """Gives the first layer a width of its own."""
    model, architecture = causal("llama"), ARCHITECTURES["llama"]
    surgery.cut(model, architecture, {UnitSite("decoder", 0, "ffn"): torch.arange(16)}, "per_layer")
    to_loadable_class(model, architecture).save_pretrained(directory)


def one_tensor_more(directory: Path) -> None:
    path = directory / WEIGHTS
    save_file(load_file(path) | {"model.layers.0.mlp.extra.weight": torch.ones(2)}, path, {"format": "pt"})


def one_tensor_fewer(directory: Path) -> None:
    path = directory / WEIGHTS
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != "model.norm.weight"}
    save_file(tensors, path, {"format": "pt"})


def with_writer(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Adds a decoder that may write rows, with changed files, to the directory of the model."""

    def add(directory: Path) -> None:
        checkpoints.write(directory / "writer")
        change(directory / "writer")

    return add


CONVERSATION = {"messages": [{"role": "user", "content": "good"}, {"role": "assistant", "content": "LABEL_1"}]}
CHAT: dict[str, Any] = {"kind": "generation", "template": None, "labels": None, "messages": "messages"}
CHAT_WITH_ROWS = CHAT | {part: {"rows": [CONVERSATION] * 4} for part in ("calibration", "evaluation")}
EMBEDDING: dict[str, Any] = {"kind": "embedding", "template": None, "labels": None}
OF_HEAD: dict[str, Any] = {"labels": {"1": "LABEL_1", "0": "LABEL_0"}}
HEADS = {"method": {"units": ["heads"]}}
UNEQUAL = {"method": {"units": ["ffn"], "scope": "global"}}
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CASES: dict[str, Case] = {
    "label of a row": Case(
        Site("data.loading", "_blaming"),
        "unknown_label",
        "task.calibration.rows",
        {"task": {"calibration": rows("1", "0", "2"), "evaluation": rows("1", "0")}},
    ),
    "target without a text": Case(
        Site("data.loading", "_blaming"),
        "invalid_data",
        "task.calibration.rows",
        {"task": {"kind": "generation", "labels": None, "calibration": targets("good", ["good", ""])}},
    ),
    "conversation without an answer": Case(
        Site("data.loading", "_blaming"),
        "invalid_data",
        "task.calibration.rows",
        {"task": CHAT | {"calibration": {"rows": [CONVERSATION, {"messages": CONVERSATION["messages"][:1]}]}}},
    ),
    "model without a chat template": Case(
        Site("data.chat_templates", "chat_frame"), "invalid_model", "model.uri", {"task": CHAT_WITH_ROWS}
    ),
    "encoder without a chat template": Case(
        Site("data.chat_templates", "chat_frame"),
        "invalid_model",
        "model.uri",
        {"task": CHAT_WITH_ROWS | {"kind": "classification", "labels": {"a": "LABEL_0", "b": "LABEL_1"}}},
        family="bert",
    ),
    "missing rows": Case(
        Site("data.loading", "_blaming"),
        "invalid_data",
        "task.calibration.uri",
        {"task": {"calibration": {"uri": "file:///nowhere/rows.jsonl"}}},
    ),
    "too few rows": Case(
        Site("data.loading", "_blaming"), "invalid_data", "task.evaluation", {"task": {"calibration": rows("1", "0")}}
    ),
    "token beyond the embedding": Case(
        Site("data.tokenising", "_check_known"),
        "invalid_model",
        "model.uri",
        {"task": {"template": "<review>{text}:"}},
        prepare=extra_token,
    ),
    "heads of GPT-2": Case(
        Site("stages.slim", "refusing_units"), "unsupported_unit", "method.units", HEADS, family="gpt2"
    ),
    "bias of Qwen2": Case(
        Site("stages.slim", "refusing_repairs"),
        "invalid_request",
        "method.repair",
        {"method": {"repair": "bias", "criterion": "attribution"}},
        family="qwen2",
    ),
    "uniform layout of unequal widths": Case(
        Site("stages.task_model", "load"), "invalid_request", "output.layout", prepare=own_widths
    ),
    "latency where nothing can be removed": Case(
        Site("search.latency_bound", "largest_within_latency"),
        "target_unreachable",
        "target.latency_ms",
        HEADS | {"target": {"latency_ms": 0.001}},
        prepare=one_head,
    ),
    "latency of too many tokens": Case(
        Site("stages.task_model", "check_latency_tokens"),
        "invalid_request",
        "target.latency_ms.tokens",
        {"target": {"latency_ms": {"value": 9, "tokens": 65}}},
    ),
    "sweep without a width": Case(
        Site("search.sweep", "_candidate_at"),
        "target_unreachable",
        "target.sweep",
        {"target": {"sweep": [0.3, 0.95]}, "output": {"round_to": 48}},
    ),
    "sweep that removes nothing": Case(
        Site("search.sweep", "_check_removal"),
        "target_unreachable",
        "target.sweep",
        {"target": {"sweep": [0.1]}, "output": {"round_to": 16}},
    ),
    "floor with one row": Case(
        Site("search.metric_floor", "smallest_keeping"),
        "invalid_request",
        "task.evaluation",
        {"target": {"keep_metric": 0.5}, "task": {"evaluation": rows("1")}},
    ),
    "ratio without a width": Case(
        Site("search.counted", "counted_candidate"),
        "target_unreachable",
        "target.ratio",
        {"target": {"ratio": 0.95}, "output": {"round_to": 48}},
    ),
    "ratio that removes nothing": Case(
        Site("search.counted", "counted_candidate"), "target_unreachable", "target.ratio", HEADS, prepare=one_head
    ),
    "more parameters than there are": Case(
        Site("search.counted", "largest_within"),
        "invalid_request",
        "target.parameters",
        {"target": {"parameters": 10**9}},
    ),
    "fewer parameters than remain": Case(
        Site("search.counted", "largest_within"), "target_unreachable", "target.bytes", {"target": {"bytes": 100}}
    ),
    "missing model": Case(
        Site("sources.fetching", "fetch_model"),
        "invalid_model",
        "model.uri",
        {"model": {"uri": "file:///nowhere/model"}},
    ),
    "missing adapter": Case(
        Site("sources.fetching", "fetch_adapter"),
        "invalid_model",
        "model.adapter_uri",
        {"model": {"uri": "MODEL", "adapter_uri": "file:///nowhere/adapter"}},
    ),
    "several GGUF files": Case(
        Site("sources.fetching", "_gguf_file"),
        "invalid_model",
        "model.uri",
        prepare=all_of(written(WEIGHTS, None), written("a.gguf", b"GGUF"), written("b.gguf", b"GGUF")),
    ),
    "code of its own": Case(
        Site("sources.validation", "check_checkpoint"),
        "invalid_model",
        "model.uri",
        prepare=edited(CONFIG, auto_map={"AutoModel": "own.Model"}),
    ),
    "index of other files": Case(
        Site("sources.validation", "weight_files"),
        "invalid_model",
        "model.uri",
        prepare=all_of(
            lambda directory: (directory / WEIGHTS).rename(directory / "other.safetensors"),
            written("model.safetensors.index.json", b'{"weight_map": {"a": "../other.safetensors"}}'),
        ),
    ),
    "pickled weights": Case(
        Site("sources.validation", "weight_files"),
        "invalid_model",
        "model.uri",
        prepare=all_of(written(WEIGHTS, None), written("pytorch_model.bin", b"")),
    ),
    "no weights": Case(
        Site("sources.validation", "weight_files"), "invalid_model", "model.uri", prepare=written(WEIGHTS, None)
    ),
    "damaged weights": Case(
        Site("sources.validation", "check_safetensors"),
        "invalid_model",
        "model.uri",
        prepare=written(WEIGHTS, b"damaged"),
    ),
    "config that is no JSON": Case(
        Site("sources.validation", "read_json"), "invalid_model", "model.uri", prepare=written(CONFIG, b"{")
    ),
    "modules that are no JSON": Case(
        Site("sources.validation", "read_json_value"),
        "invalid_model",
        "model.uri",
        {"task": EMBEDDING},
        family="bert",
        prepare=all_of(lambda directory: checkpoints.save(directory, encoder("bert")), written("modules.json", b"{")),
    ),
    "a tensor too many": Case(
        Site("checkpoints.weights", "_check_all_used"), "invalid_model", "model.uri", prepare=one_tensor_more
    ),
    "a tensor too few": Case(
        Site("checkpoints.weights", "_check_complete"), "invalid_model", "model.uri", prepare=one_tensor_fewer
    ),
    "no tokenizer": Case(
        Site("checkpoints.weights", "invalid_model"),
        "invalid_model",
        "model.uri",
        prepare=all_of(written("tokenizer.json", None), written("tokenizer_config.json", None)),
    ),
}


def whole_words(directory: Path) -> None:
    """Replace the tokenizer by one that knows whole words alone."""
    content = json.loads((directory / "tokenizer.json").read_text())
    model = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "<unk>"}
    (directory / "tokenizer.json").write_text(json.dumps(content | {"model": model}))


# Refusals by functions of the contract that plan and worker call both; the place is in the service.
BY_CONTRACT: dict[str, Case] = {
    "recovery with too few rows": Case(
        Site("contract.recovery", "check_rows"),
        "invalid_request",
        "task.calibration",
        {"recovery": {"rank": 4}, "task": {"calibration": rows(*"0101010101"), "evaluation": rows("1", "0")}},
    ),
    "more shards than calibration rows": Case(
        Site("contract.method", "check_shards"),
        "invalid_request",
        "method.shards",
        {"method": {"shards": 5}, "task": {"calibration": rows(*"0101"), "evaluation": rows("1", "0")}},
    ),
    "recovery of a rank that is too high": Case(
        Site("contract.recovery", "check_rank"), "invalid_request", "recovery.rank", {"recovery": {"rank": 17}}
    ),
    "recovery of embeddings by right answers": Case(
        Site("contract.recovery", "check_kind"),
        "invalid_request",
        "recovery.method",
        {"recovery": {"rank": 4, "method": "lora"}, "task": EMBEDDING},
        family="bert",
        prepare=lambda directory: checkpoints.save(directory, encoder("bert")),
    ),
    "synthesis with too few rows": Case(
        Site("contract.synthesis", "check_rows"),
        "invalid_request",
        "task.calibration",
        {"task": {"synthesis": {}, "calibration": rows("0", "1", "0"), "evaluation": rows("1", "0")}},
    ),
    "synthesis of conversations": Case(
        Site("contract.synthesis", "check_task"),
        "invalid_request",
        "task.synthesis",
        {"task": CHAT_WITH_ROWS | {"synthesis": {}}},
        prepare=lambda directory: add_chat_template(directory, USABLE["headed"]),
    ),
    "synthesis without right answers": Case(
        Site("contract.synthesis", "check_task"),
        "invalid_request",
        "task.synthesis",
        {"task": {"supervision": "none", "synthesis": {}}},
    ),
    "synthesis by an encoder": Case(
        Site("contract.synthesis", "check_writer"),
        "invalid_request",
        "task.synthesis",
        {"task": OF_HEAD | {"synthesis": {}}},
        family="bert",
    ),
    "rationales for an encoder": Case(
        Site("contract.synthesis", "check_reader_of_rationales"),
        "invalid_request",
        "task.synthesis.rationales",
        {
            "task": OF_HEAD | {"synthesis": {"rationales": True, "model": {"uri": "MODEL/writer"}}},
            "recovery": {"rank": 4, "stages": ["rationale", "answer"]},
        },
        family="bert",
        prepare=with_writer(lambda directory: None),
    ),
    "synthesis by another model that is an encoder": Case(
        Site("contract.synthesis", "check_writer"),
        "invalid_request",
        "task.synthesis.model.uri",
        {"task": OF_HEAD | {"synthesis": {"model": {"uri": "MODEL"}}}},
        family="bert",
    ),
    "synthesis by a missing model": Case(
        Site("contract.synthesis", "blaming_writer"),
        "invalid_model",
        "task.synthesis.model.uri",
        {"task": {"synthesis": {"model": {"uri": "file:///nowhere/model"}}}},
    ),
    "synthesis by a model with damaged weights": Case(
        Site("contract.synthesis", "blaming_writer"),
        "invalid_model",
        "task.synthesis.model.uri",
        {"task": {"synthesis": {"model": {"uri": "MODEL/writer"}}}},
        prepare=with_writer(written(WEIGHTS, b"damaged")),
    ),
    "synthesis by a model with a tensor too few": Case(
        Site("contract.synthesis", "blaming_writer"),
        "invalid_model",
        "task.synthesis.model.uri",
        {"task": {"synthesis": {"model": {"uri": "MODEL/writer"}}}},
        prepare=with_writer(one_tensor_fewer),
    ),
    "tokens of a tokenizer of whole words": Case(
        Site("vocabulary.checks", "check_pieces"),
        "unsupported_unit",
        "method.units",
        {"method": {"units": ["vocabulary"]}, "target": {"ratio": 0.1}},
        prepare=whole_words,
    ),
    "texts without a text": Case(
        Site("rows.checks", "plain_texts"),
        "invalid_data",
        "task.texts.rows",
        {"method": {"units": ["vocabulary"]}, "task": {"texts": {"rows": [{"other": "a"}]}}},
    ),
    "4 bits in widths that groups do not divide": Case(
        Site("exports.precisions", "check_precisions"),
        "unsupported_format",
        "output.quantise",
        {"output": {"quantise": ["w4a16"], "round_to": 8}},
    ),
    "int8 of a family without linear modules": Case(
        Site("exports.precisions", "check_precisions"),
        "unsupported_format",
        "output.quantise",
        {"output": {"quantise": ["int8"], "round_to": 8}},
        family="gpt2",
    ),
    "w8a8 of a family that vLLM has no decoder for": Case(
        Site("exports.precisions", "check_precisions"),
        "unsupported_format",
        "output.quantise",
        {"output": {"quantise": ["w8a8"], "round_to": 8}},
        family="t5",
    ),
    "format without the family": Case(
        Site("exports.formats", "check_formats"),
        "unsupported_format",
        "output.formats",
        {"output": {"formats": ["gguf"], "round_to": 8}},
        family="opt",
    ),
    "GGUF of layers that differ in a family without a form for them": Case(
        Site("exports.formats", "check_formats"),
        "unsupported_format",
        "output.formats",
        UNEQUAL | {"output": {"formats": ["gguf"], "layout": "per_layer", "round_to": 8}},
        family="gemma2",
    ),
    "GGUF of layers that differ under a head of its own": Case(
        Site("exports.formats", "check_formats"),
        "unsupported_format",
        "output.formats",
        UNEQUAL | {"output": {"formats": ["gguf"], "layout": "per_layer", "round_to": 8}},
        family="qwen3",
    ),
    "GGUF of a Gemma without a layer": Case(
        Site("exports.formats", "check_formats"),
        "unsupported_format",
        "output.formats",
        {"method": {"units": ["layers"]}, "target": {"ratio": 0.5}, "output": {"formats": ["gguf"]}},
        family="gemma3_text",
    ),
    "mlx of a Qwen2 with fewer heads": Case(
        Site("exports.formats", "check_formats"),
        "unsupported_format",
        "output.formats",
        HEADS | {"target": {"ratio": 0.5}, "output": {"formats": ["mlx"]}},
        family="qwen2",
    ),
    "mlx of layers that differ with biases": Case(
        Site("exports.formats", "check_formats"),
        "unsupported_format",
        "output.formats",
        UNEQUAL | {"output": {"formats": ["mlx"], "layout": "per_layer", "round_to": 8}},
        family="qwen2",
    ),
    "GGUF with another tokenizer": Case(
        Site("exports.formats", "check_format_tokenizers"),
        "unsupported_format",
        "output.formats",
        {"output": {"formats": ["gguf"], "round_to": 8}},
        prepare=lowercased,
    ),
    "weight of labels that the rows lack": Case(
        Site("contract.recovery", "check_kind"),
        "invalid_request",
        "recovery.label_weight",
        {
            "recovery": {"rank": 4, "method": "distillation", "label_weight": 0.3},
            "task": {"supervision": "none"},
        },
    ),
}

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
