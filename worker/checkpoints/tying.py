"""Tied weights: parameters that several modules of a model share, such as the output head and the input embedding.

Whether they are tied is what the files of a model say, not what the flag `tie_word_embeddings` of its config says.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.slimming.streaming.mapped import beside

# The config of a UMT5 sets the flag whatever config.json says, and the class scales the input of the head by it.
FORCED_FLAGS = ("umt5",)


def take_tensors(converted: PreTrainedModel, model: PreTrainedModel) -> None:
    """Give `converted` the parameters and buffers of `model`, in their dtypes; what `model` shares stays shared."""
    converted.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    for name, buffer in model.named_buffers():  # also those that are no part of a checkpoint, such as sinusoids
        path, _, leaf = name.rpartition(".")
        converted.get_submodule(path).register_buffer(leaf, buffer, persistent=name in model.state_dict())
    converted.requires_grad_(False)
    converted.all_tied_weights_keys = dict(model.all_tied_weights_keys)
    settle_tying(converted)


def settle_tying(model: PreTrainedModel) -> None:
    """Set the records of a model to the weights that it does share, so that its checkpoint says so."""
    shared = model.all_tied_weights_keys.items()
    model.all_tied_weights_keys = {
        target: source for target, source in shared if _parameter(model, target) is _parameter(model, source)
    }
    head, config = model.get_output_embeddings(), model.config
    if head is None:
        return
    is_tied = any(_parameter(model, target) is head.weight for target in model.all_tied_weights_keys)
    config.tie_word_embeddings = is_tied or config.model_type in FORCED_FLAGS
    if model.all_tied_weights_keys and not type(config).from_dict(config.to_dict()).tie_word_embeddings:
        untie(model)  # BART ties its two embeddings by the same flag as its head, T5 whatever the flag says
        model.all_tied_weights_keys = {}


def untie(model: nn.Module) -> None:
    """Give every module that shares a parameter with another a copy of its own."""
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        for name, parameter in list(module.named_parameters(path, recurse=False)):
            if parameter in seen:
                setattr(
                    module,
                    name.rpartition(".")[2],
                    nn.Parameter(beside(parameter, parameter.detach().clone()), requires_grad=False),
                )
            seen.add(parameter)


def tie_equal(model: PreTrainedModel) -> None:
    """Share again the weights that a stock class ties, where they are equal."""
    for target, source in model.all_tied_weights_keys.items():
        if torch.equal(_parameter(model, target), _parameter(model, source)):
            path, _, name = target.rpartition(".")
            setattr(model.get_submodule(path), name, _parameter(model, source))
    settle_tying(model)


def _parameter(model: nn.Module, name: str) -> Tensor:
    found: Tensor = model.get_parameter(name)
    return found
