"""GGUF: the architectures of llama.cpp that compute a slim model as transformers does."""

from service.exports.model import ExportedModel

# Family -> architecture, for equal widths.
UNIFORM = {"llama": "llama", "mistral": "llama"}
ROPE_TYPES = ("default",)
WITHOUT_FORMAT = "leave `gguf` out of `output.formats`"


def against_model(model: ExportedModel) -> str | None:
    """Why llama.cpp cannot compute the slim model; None if it can."""
    family = model.family
    if family.kind != "causal":
        return f"a file holds a decoder with a language-modelling head, not a {family.model_class}: {WITHOUT_FORMAT}"
    if model.model_type not in UNIFORM:
        return _other_family(model)
    if model.own_widths:
        return f"there is no form for a {model.model_type} whose layers differ: ask for the layout `uniform`"
    return _settings(model)


def _other_family(model: ExportedModel) -> str:
    written = f"files of the family {model.model_type} are not written, only of {', '.join(UNIFORM)}"
    if "llama.cpp" in model.family.runtimes and not model.own_widths:
        return f"{written}: ask for `safetensors`, which llama.cpp's own convert_hf_to_gguf.py converts"
    return f"{written}: {WITHOUT_FORMAT}"


def _settings(model: ExportedModel) -> str | None:
    if model.rope_type not in ROPE_TYPES:
        return f"rotary positions of the type {model.rope_type!r} are not written: {WITHOUT_FORMAT}"
    if model.activation != "silu":
        return f"llama.cpp computes silu in this family, not {model.activation}: {WITHOUT_FORMAT}"
    return None
