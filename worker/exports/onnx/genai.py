"""The genai_config.json of a decoder, with which onnxruntime-genai runs the file."""

from typing import Any

from worker.exports.onnx.files import OnnxFiles
from worker.exports.source import ExportSource

# Family -> the type of model in onnxruntime-genai.
TYPES = {"gemma3_text": "gemma3_text", "gemma2": "gemma2"}


def genai_config(source: ExportSource, found: OnnxFiles) -> dict[str, Any]:
    """The config. It has one number of key-value heads; the shapes of the file's inputs say what each layer has."""
    own, tokenizer = vars(source.config), source.tokenizer
    length = own["max_position_embeddings"]
    ends = own.get("eos_token_id")
    return {
        "model": {
            "type": TYPES.get(source.config.model_type, source.config.model_type),
            "bos_token_id": _token(own.get("bos_token_id"), tokenizer.bos_token_id),
            "eos_token_id": ends if isinstance(ends, list) else _token(ends, tokenizer.eos_token_id),
            "pad_token_id": _token(own.get("pad_token_id"), tokenizer.pad_token_id, tokenizer.eos_token_id),
            "context_length": length,
            "vocab_size": own["vocab_size"],
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"provider_options": []},
                "head_size": found.head_size,
                "hidden_size": own["hidden_size"],
                "num_attention_heads": own["num_attention_heads"],
                "num_hidden_layers": own["num_hidden_layers"],
                "num_key_value_heads": own["num_key_value_heads"],
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": length,
            "num_beams": 1,
            "past_present_share_buffer": False,  # which needs one shape for all layers
        },
    }


def _token(*numbers: int | None) -> int:
    """The first of the token numbers that is set; 0 where none is."""
    return next((number for number in numbers if number is not None), 0)
