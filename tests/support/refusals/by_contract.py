"""Requests that functions of the service refuse, which plan and worker call both; the place is in the service."""

from tests.support import checkpoints
from tests.support.chat_templates import USABLE, add_chat_template
from tests.support.damaged_models import (
    WEIGHTS,
    lowercased,
    one_tensor_fewer,
    whole_words,
    with_writer,
    written,
)
from tests.support.refusals.case import CHAT_WITH_ROWS, EMBEDDING, HEADS, OF_HEAD, UNEQUAL, Case, Site, rows
from tests.support.tiny_models import encoder

BY_CONTRACT: dict[str, Case] = {
    "recovery with too few rows": Case(
        Site("contract.request.recovery", "check_rows"),
        "invalid_request",
        "task.calibration",
        {"recovery": {"rank": 4}, "task": {"calibration": rows(*"0101010101"), "evaluation": rows("1", "0")}},
    ),
    "more shards than calibration rows": Case(
        Site("contract.request.method", "check_shards"),
        "invalid_request",
        "method.shards",
        {"method": {"shards": 5}, "task": {"calibration": rows(*"0101"), "evaluation": rows("1", "0")}},
    ),
    "recovery of a rank that is too high": Case(
        Site("contract.request.recovery", "check_rank"), "invalid_request", "recovery.rank", {"recovery": {"rank": 17}}
    ),
    "recovery of embeddings by right answers": Case(
        Site("contract.request.recovery", "check_kind"),
        "invalid_request",
        "recovery.method",
        {"recovery": {"rank": 4, "method": "lora"}, "task": EMBEDDING},
        family="bert",
        prepare=lambda directory: checkpoints.save(directory, encoder("bert")),
    ),
    "synthesis with too few rows": Case(
        Site("contract.request.synthesis", "check_rows"),
        "invalid_request",
        "task.calibration",
        {"task": {"synthesis": {}, "calibration": rows("0", "1", "0"), "evaluation": rows("1", "0")}},
    ),
    "synthesis of conversations": Case(
        Site("contract.request.synthesis", "check_task"),
        "invalid_request",
        "task.synthesis",
        {"task": CHAT_WITH_ROWS | {"synthesis": {}}},
        prepare=lambda directory: add_chat_template(directory, USABLE["headed"]),
    ),
    "synthesis without right answers": Case(
        Site("contract.request.synthesis", "check_task"),
        "invalid_request",
        "task.synthesis",
        {"task": {"supervision": "none", "synthesis": {}}},
    ),
    "synthesis by an encoder": Case(
        Site("contract.request.synthesis", "check_writer"),
        "invalid_request",
        "task.synthesis",
        {"task": OF_HEAD | {"synthesis": {}}},
        family="bert",
    ),
    "rationales for an encoder": Case(
        Site("contract.request.synthesis", "check_reader_of_rationales"),
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
        Site("contract.request.synthesis", "check_writer"),
        "invalid_request",
        "task.synthesis.model.uri",
        {"task": OF_HEAD | {"synthesis": {"model": {"uri": "MODEL"}}}},
        family="bert",
    ),
    "synthesis by a missing model": Case(
        Site("contract.request.synthesis", "blaming_writer"),
        "invalid_model",
        "task.synthesis.model.uri",
        {"task": {"synthesis": {"model": {"uri": "file:///nowhere/model"}}}},
    ),
    "synthesis by a model with damaged weights": Case(
        Site("contract.request.synthesis", "blaming_writer"),
        "invalid_model",
        "task.synthesis.model.uri",
        {"task": {"synthesis": {"model": {"uri": "MODEL/writer"}}}},
        prepare=with_writer(written(WEIGHTS, b"damaged")),
    ),
    "synthesis by a model with a tensor too few": Case(
        Site("contract.request.synthesis", "blaming_writer"),
        "invalid_model",
        "task.synthesis.model.uri",
        {"task": {"synthesis": {"model": {"uri": "MODEL/writer"}}}},
        prepare=with_writer(one_tensor_fewer),
    ),
    "tokens of a tokenizer of whole words": Case(
        Site("models.vocabulary.checks", "check_pieces"),
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
        Site("contract.request.recovery", "check_kind"),
        "invalid_request",
        "recovery.label_weight",
        {
            "recovery": {"rank": 4, "method": "distillation", "label_weight": 0.3},
            "task": {"supervision": "none"},
        },
    ),
}
