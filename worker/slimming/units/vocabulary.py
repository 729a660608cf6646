"""The rows of the vocabulary as units."""

from typing import Any

from torch import nn

from worker.slimming.units.groups import VOCABULARY, Group, ParameterSlice
from worker.slimming.units.slices import config_of, parameters_of_unit


def vocabulary_group(model: nn.Module) -> Group:
    """The rows of the embedding and of the head over the vocabulary, whose weight may be the same."""
    slices = tuple(ParameterSlice(name, 0, 1) for name in vocabulary_parameters(model))
    return Group(
        site=VOCABULARY,
        kind=VOCABULARY.unit,
        count=model.get_parameter(slices[0].parameter).shape[0],
        parameters=parameters_of_unit(model, slices),
        slices=slices,
        module=slices[0].parameter.rpartition(".")[0],
        hook_point="none",
        size=int(config_of(model).get_text_config().hidden_size),
        fields=(("vocab_size", 1),),
    )


def vocabulary_parameters(model: Any) -> list[str]:
    """The names of the parameters with a row for each token, shared ones once; the input embedding first."""
    parts = [model, *(getattr(model, f"get_{part}")() for part in _coders(model))]
    head = model.get_output_embeddings()
    weights = [part.get_input_embeddings().weight for part in parts] + ([] if head is None else [head.weight])
    biases = [bias for bias in [getattr(head, "bias", None)] if bias is not None]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return list(dict.fromkeys(names[id(parameter)] for parameter in (*weights, *biases)))


def _coders(model: Any) -> tuple[str, ...]:
    return ("encoder", "decoder") if model.config.is_encoder_decoder else ()
