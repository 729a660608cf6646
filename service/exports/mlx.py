"""Checkpoints for mlx-lm.

With equal widths mlx-lm loads the checkpoint itself. Layers with widths of their own are written as its `openelm`,
which has a number of heads and a width for each layer, no biases, and rotary positions without scaling.
"""

from service.contract.options import Unit
from service.exports.model import ExportedModel
from service.models.families.runtimes.limits import limit_of
from service.models.families.runtimes.sizes import SlimSizes

RUNTIME = "mlx-lm"
PER_LAYER = ("llama", "mistral", "qwen3")
WITHOUT_FORMAT = "leave `mlx` out of `output.formats`"
UNIFORM_INSTEAD = "ask for the layout `uniform`"


def against_model(model: ExportedModel) -> str | None:
    """Why mlx-lm cannot compute the slim model; None if it can."""
    if model.family.kind != "causal":
        return (
            f"mlx-lm loads decoders with a language-modelling head, not a {model.family.model_class}: {WITHOUT_FORMAT}"
        )
    if RUNTIME not in model.family.runtimes:
        return f"mlx-lm has no architecture for {model.model_type}: {WITHOUT_FORMAT}"
    return _per_layer(model) if model.own_widths else _uniform(model)


def _uniform(model: ExportedModel) -> str | None:
    reason = limit_of(RUNTIME, _sizes(model))
    return None if reason is None else f"in mlx-lm {reason}"


def _per_layer(model: ExportedModel) -> str | None:
    if model.model_type not in PER_LAYER:
        return f"mlx-lm has no form for a {model.model_type} whose layers differ: {UNIFORM_INSTEAD}"
    if model.rope_type != "default":
        return f"mlx-lm has no rotary positions of the type {model.rope_type} where layers differ: {UNIFORM_INSTEAD}"
    if any(model.config.get(field) for field in ("attention_bias", "mlp_bias")):
        return f"mlx-lm has no biases where layers differ: {UNIFORM_INSTEAD}"
    if model.config.get("sliding_window"):
        return f"mlx-lm has no sliding window where layers differ: {UNIFORM_INSTEAD}"
    if model.activation != "silu":
        return f"mlx-lm computes silu where layers differ, not {model.activation}: {UNIFORM_INSTEAD}"
    return None


def _sizes(model: ExportedModel) -> SlimSizes:
    """The sizes of the dense model, without those that the request leaves to the scores."""
    config, names = model.config, model.family.names.of(model.config)
    heads, hidden = (int(names.value(config, field) or 0) for field in (names.heads, names.hidden_size))
    return SlimSizes(
        model.model_type,
        model.units,
        widths=[],
        heads=heads,
        head_size=int(names.value(config, names.head_size) or hidden // max(1, heads)),
        layers=int(config.get("num_hidden_layers") or 0),
        hidden_size=hidden,
        config=config,
        heads_known=Unit.heads not in model.units,
        layers_known=Unit.layers not in model.units,
        kind=model.family.kind,
    )
