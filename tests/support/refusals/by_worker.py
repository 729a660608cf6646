"""Requests that a function of the worker refuses, and the plan as well."""

from tests.support import checkpoints
from tests.support.damaged_models import (
    WEIGHTS,
    all_of,
    edited,
    extra_token,
    one_head,
    one_tensor_fewer,
    one_tensor_more,
    own_widths,
    written,
)
from tests.support.refusals.case import (
    CHAT,
    CHAT_WITH_ROWS,
    CONFIG,
    CONVERSATION,
    EMBEDDING,
    HEADS,
    Case,
    Site,
    rows,
    targets,
)
from tests.support.tiny_models import encoder

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
