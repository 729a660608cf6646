"""GGUF: the architectures of llama.cpp that compute a slim model as transformers does.

Layers with widths of their own have an architecture of another family: `deci` takes what a Llama has, biases included,
and `openelm` heads with norms. What `against_model` lets pass is written by `worker.exports.gguf.export`.
"""

from collections.abc import Callable

from service.contract.options import Unit
from service.exports.model import ExportedModel
from service.models.families.runtimes.layer_patterns import follows_pattern

# Family -> architecture, for equal widths and for layers with widths of their own.
UNIFORM = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
PER_LAYER = {"llama": "deci", "mistral": "deci", "qwen2": "deci", "qwen3": "openelm"}
ROPE_TYPES = ("default", "linear", "llama3")
GEMMAS = ("gemma2", "gemma3_text")
GELU = ("gelu_pytorch_tanh", "gelu_new")
WITHOUT_FORMAT = "leave `gguf` out of `output.formats`"
UNIFORM_INSTEAD = "ask for the layout `uniform`"


def architecture(model_type: str, *, own_widths: bool, heads_fill_hidden_size: bool) -> str:
    """The architecture of a slim model that `against_model` lets pass.

    `heads_fill_hidden_size`: whether the size of a head is the hidden size divided by the heads, as `qwen2` takes it.
    """
    if own_widths or (model_type == "qwen2" and not heads_fill_hidden_size):
        return PER_LAYER[model_type]
    return UNIFORM[model_type]


def against_model(model: ExportedModel) -> str | None:
    """Why llama.cpp cannot compute the slim model; None if it can."""
    if model.family.kind != "causal":
        held = "a file holds a decoder with a language-modelling head"
        return f"{held}, not a {model.family.model_class}: {WITHOUT_FORMAT}"
    if model.model_type not in UNIFORM:
        return _other_family(model)
    return next((reason for check in CHECKS if (reason := check(model)) is not None), None)


def _other_family(model: ExportedModel) -> str:
    written = f"files of the family {model.model_type} are not written, only of {', '.join(UNIFORM)}"
    if "llama.cpp" in model.family.runtimes and not model.own_widths:
        return f"{written}: ask for `safetensors`, which llama.cpp's own convert_hf_to_gguf.py converts"
    return f"{written}: {WITHOUT_FORMAT}"


def _layout(model: ExportedModel) -> str | None:
    if not model.own_widths:
        return None
    if model.model_type not in PER_LAYER:
        return f"llama.cpp has no form for a {model.model_type} whose layers differ: {UNIFORM_INSTEAD}"
    if PER_LAYER[model.model_type] == "openelm" and not model.is_tied:
        return (
            f"llama.cpp has a form for a {model.model_type} whose layers differ only where the head is the embedding "
            f"(tie_word_embeddings): {UNIFORM_INSTEAD}"
        )
    return None


def _positions(model: ExportedModel) -> str | None:
    if model.rope_type not in ROPE_TYPES:
        return f"rotary positions of the type {model.rope_type!r} are not written: {WITHOUT_FORMAT}"
    if model.rope_type == "llama3" and model.model_type not in ("llama", "mistral"):
        return f"rotary positions of the type llama3 are written for a Llama alone: {WITHOUT_FORMAT}"
    return None


def _activation(model: ExportedModel) -> str | None:
    known = GELU if model.model_type in GEMMAS else ("silu",)
    if model.activation in known:
        return None
    return f"llama.cpp computes {known[0]} in this family, not {model.activation}: {WITHOUT_FORMAT}"


def _biases(model: ExportedModel) -> str | None:
    has_biases = any(model.config.get(field) for field in ("attention_bias", "mlp_bias"))
    if not has_biases or model.model_type in ("llama", "mistral"):
        return None
    return f"llama.cpp has no biases in these modules of a {model.model_type}: {WITHOUT_FORMAT}"


def _gemma(model: ExportedModel) -> str | None:
    """llama.cpp knows by the number of a layer whether it has a sliding window, and shares the embedding."""
    if model.model_type not in GEMMAS:
        return None
    if not model.is_tied:
        return f"llama.cpp takes the head of a {model.model_type} from the embedding, which differs: {WITHOUT_FORMAT}"
    if Unit.layers in model.units or not follows_pattern(model.model_type, model.config):
        return (
            "llama.cpp takes one layer of every few to see the whole text, which the layers that stay may not: remove "
            "other units than layers"
        )
    return None


CHECKS: tuple[Callable[[ExportedModel], str | None], ...] = (_layout, _positions, _activation, _biases, _gemma)
