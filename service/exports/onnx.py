"""ONNX: the families whose graphs compute a slim model as transformers does."""

from service.exports.model import ExportedModel

ENCODERS = ("bert", "roberta", "distilbert", "xlm-roberta", "electra", "modernbert", "deberta-v2")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
ENCODER_DECODERS = ("t5", "mt5", "umt5")
WRITTEN = (*ENCODERS, *DECODERS, *ENCODER_DECODERS)
# Scalings of rotary positions that depend on the length of a text, which a graph does not.
BY_LENGTH = ("dynamic", "longrope")
WITHOUT_FORMAT = "leave `onnx` out of `output.formats`"


def against_model(model: ExportedModel) -> str | None:
    """Why a graph cannot hold the slim model; None if it can."""
    kind, name = model.family.kind, model.model_type
    if kind == "decoder_classifier":
        return f"graphs of a decoder with a classification head are not written: {WITHOUT_FORMAT}"
    if name not in WRITTEN:
        return f"graphs of the family {name} are not written, only of {', '.join(WRITTEN)}: {WITHOUT_FORMAT}"
    if name in DECODERS and model.rope_type in BY_LENGTH:
        return f"rotary positions of the type {model.rope_type!r} depend on the length of a text: {WITHOUT_FORMAT}"
    return None
