"""Requests that plan and worker refuse, each with the function of the worker that does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import checkpoints
from tests.support.chat_templates import USABLE, add_chat_template
from tests.support.damaged_models import (
    WEIGHTS,
    all_of,
    edited,
    extra_token,
    lowercased,
    one_head,
    one_tensor_fewer,
    one_tensor_more,
    own_widths,
    whole_words,
    with_writer,
    written,
)
from tests.support.tiny_models import encoder


class Site(NamedTuple):
    """A function of the worker that raises errors for requests."""

    module: str
    function: str


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


CONVERSATION = {"messages": [{"role": "user", "content": "good"}, {"role": "assistant", "content": "LABEL_1"}]}
CHAT: dict[str, Any] = {"kind": "generation", "template": None, "labels": None, "messages": "messages"}
CHAT_WITH_ROWS = CHAT | {part: {"rows": [CONVERSATION] * 4} for part in ("calibration", "evaluation")}
EMBEDDING: dict[str, Any] = {"kind": "embedding", "template": None, "labels": None}
OF_HEAD: dict[str, Any] = {"labels": {"1": "LABEL_1", "0": "LABEL_0"}}
HEADS = {"method": {"units": ["heads"]}}
UNEQUAL = {"method": {"units": ["ffn"], "scope": "global"}}
CONFIG = "config.json"
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
