"""What plan and worker refuse of the kind `embedding`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import InvalidModel, TaskslimError
from service.contract.request.job_request import JobRequest
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from tests.support import checkpoints, sentence_files
from tests.support.embedded_pairs import pairs
from tests.support.pipeline_jobs import Deployment
from tests.support.tiny_models import WITH_HEAD

WITHOUT_SECOND = [{"text": row["text"], "label": row["label"]} for row in pairs()]
REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a decoder": ("llama", {}, "task.kind", "writes texts, and is not an encoder"),
    "a head of classes": ("bert_head", {}, "task.kind", "or the checkpoint of an encoder alone"),
    "another kind of task": (
        "bert",
        {"kind": None, "template": "{text}", "labels": {"0": "no", "1": "yes"}},
        "task.kind",
        "send the kind `embedding`",
    ),
    "a text to write": ("bert", {"kind": "generation", "template": "{text}"}, "task.kind", "send the kind `embedding`"),
    "labels": ("bert", {"labels": {"0": "no", "1": "yes"}}, "task.labels", "leave `labels` out"),
    "conversations": ("bert", {"messages": "turns"}, "task.messages", "give `task.template`"),
    "a label prefix": ("bert", {"label_prefix": " "}, "task.label_prefix", "leave `label_prefix` out"),
    "no special tokens": ("bert", {"special_tokens": False}, "task.special_tokens", "leave `special_tokens` out"),
    "another metric": ("bert", {"metric": "accuracy"}, "task.metric", "give one of cosine_similarity, spearman"),
    "no second text": ("bert", {"metric": "spearman", "rows": WITHOUT_SECOND}, "", "no row has the column 'text_b'"),
    "both in the template": (
        "bert",
        {"metric": "recall_at_10", "template": "{text} {text_b}"},
        "",
        "the template names both",
    ),
    "no number": (
        "bert",
        {"metric": "pearson", "rows": [*pairs()[:4], {"text": "good", "text_b": "bad"}]},
        "",
        "(row|line) 5 has no value in the column 'label'",
    ),
    "some second texts": ("bert", {"rows": [*pairs()[:4], {"text": "a"}]}, "", "(row|line) 5 has no value .* 'text_b'"),
    "few neighbours": ("bert", {"metric": "recall_at_10", "rows": pairs(20)}, "", "different second texts"),
}


def run_stored(deployment: Deployment, request: JobRequest) -> None:
    """Run a job whose rows are stored as the API stores them."""
    stored, files = take_rows(request, "job")
    for dataset, lines in files.items():
        deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    deployment.run(stored)


@pytest.mark.parametrize("case", REFUSED)
def test_plan_and_worker_refuse_alike(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], case: str
) -> None:
    name, fields, param, message = REFUSED[case]
    if name == "bert_head":
        checkpoints.save(deployment.root / name, WITH_HEAD["bert"]())
    elif name == "llama":
        checkpoints.write(deployment.root / name)
    rows = fields.get("rows", pairs())
    if "kind" in fields:
        rows = [row | {"label": str(index % 2), "target": "good"} for index, row in enumerate(rows)]
    source = {"rows": rows}
    more = {key: value for key, value in fields.items() if key != "rows"}
    task = embedded() | {"calibration": source, "evaluation": source} | more
    request = deployment.request(name, task)
    for refusing in (
        lambda: plan(request, Access(deployment.storage, "default", local_paths=True)),
        lambda: run_stored(deployment, request),
    ):
        with pytest.raises(TaskslimError, match=message) as refused:
            refusing()
        if param:
            assert refused.value.param == param


def settings(name: str, **fields: Any) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(json.dumps(fields))


PROMPTS = "config_sentence_transformers.json"
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a module behind": (
        lambda directory: sentence_files.write_modules(
            directory, {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
        ),
        "the module Dense in 2_Dense",
    ),
    "another order": (
        lambda directory: sentence_files.write_modules(directory, {"Pooling": "1_Pooling", "Transformer": ""}),
        "give one with Transformer, Pooling, Normalize in this order",
    ),
    "a directory for the model": (
        lambda directory: sentence_files.write_modules(
            directory, {"Transformer": "0_Transformer", "Pooling": "1_Pooling"}
        ),
        "its model in the directory 0_Transformer",
    ),
    "no list of modules": (settings("modules.json", Transformer=""), "is not a list of modules"),
    "no config of the pooling": (
        lambda directory: (directory / "1_Pooling/config.json").unlink(),
        "which has no config.json",
    ),
    "the maximum": (
        lambda directory: sentence_files.write_pooling(directory, pooling_mode="max"),
        "pools by max: give an encoder that pools by one of mean, cls, lasttoken",
    ),
    "two poolings": (
        lambda directory: sentence_files.write_pooling(
            directory, pooling_mode_mean_tokens=True, pooling_mode_cls_token=True
        ),
        "pools by cls, mean",
    ),
    "a prompt before every text": (
        settings(PROMPTS, prompts={"query": "query: "}, default_prompt_name="query"),
        "write the prompt in `task.template`",
    ),
    "logits": (settings("sentence_bert_config.json", transformer_task="fill-mask"), "the transformer_task 'fill-mask'"),
    "no length": (settings("sentence_bert_config.json", max_seq_length="long"), "max_seq_length 'long'"),
    "settings in a list": (
        lambda directory: (directory / "sentence_bert_config.json").write_text("[]"),
        "are not a JSON object",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_say_something_else_are_refused(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], case: str
) -> None:
    change, message = FILES[case]
    task = embedded("bert", "mean_tokens")
    change(deployment.root / "bert")
    request = deployment.request("bert", task)
    for refusing in (
        lambda: plan(request, Access(deployment.storage, "default", local_paths=True)),
        lambda: deployment.run(request),
    ):
        with pytest.raises(InvalidModel, match=message) as refused:
            refusing()
        assert refused.value.param == "model.uri"


def test_supervision_is_refused(deployment: Deployment, embedded: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="leave `supervision` out"):
        deployment.request("bert", embedded(supervision="none"))
