"""Removes rows of the vocabulary from a model: from its embeddings and from its head.

It is exact: for tokens that stay the model computes the logits that it had for them, and has no others.

Shape suffixes: V rows of the embedding, K rows that stay.
"""

from typing import Any

from torch import Tensor, nn

from worker.slimming.streaming.mapped import beside
from worker.slimming.surgery.config_sizes import configs_of
from worker.slimming.units.groups import VOCABULARY, Kept
from worker.slimming.units.vocabulary import vocabulary_parameters

USED = 1.0  # the least score of a row that has to stay; those of all other rows are lower
BIASES = ("final_logits_bias",)  # buffers with a column for each token
SIZES = ("vocab_size", "num_embeddings")  # attributes of modules, and the field of configs


def is_unused(score_V: Tensor) -> Tensor:
    """Which rows may be removed, bool (V)."""
    return score_V < USED


def without_vocabulary(kept: Kept) -> Kept:
    """The units that stay, but for the rows of the vocabulary."""
    return {site: kept_K for site, kept_K in kept.items() if site != VOCABULARY}


def cut_rows(model: nn.Module, kept_K: Tensor) -> None:
    """Keep these rows alone of a model, in place. What modules share stays shared."""
    dense = num_rows(model)
    for name in vocabulary_parameters(model):
        _replace(model, model.get_parameter(name), kept_K)
    for name, buffer in list(model.named_buffers()):
        if name.endswith(BIASES):
            path, _, leaf = name.rpartition(".")
            model.get_submodule(path).register_buffer(leaf, buffer[..., kept_K.to(buffer.device)])
    for owner in (*configs_of(model), *parts_of(model), *model.modules()):
        _set_sizes(owner, dense, kept_K.numel())


def num_rows(model: nn.Module) -> int:
    """The rows of the input embedding."""
    return int(model.get_parameter(vocabulary_parameters(model)[0]).shape[0])


def _replace(model: nn.Module, old: nn.Parameter, kept_K: Tensor) -> None:
    """Put the kept rows of a parameter into every module that has it."""
    rows = old.detach().index_select(0, kept_K.to(old.device)).contiguous()
    new = nn.Parameter(beside(old, rows), requires_grad=old.requires_grad)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter is old:
                setattr(module, name, new)


def parts_of(model: Any) -> list[Any]:
    """The configs within that of the model."""
    configs = (getattr(model.config, name) for name in getattr(model.config, "sub_configs", {}))
    return [config for config in configs if config is not None]


def _set_sizes(owner: Any, dense: int, slim: int) -> None:
    """Set the attributes that hold the number of rows."""
    for name in (*SIZES, "out_features"):
        if getattr(owner, name, None) == dense and _has_rows(owner, name):
            setattr(owner, name, slim)


def _has_rows(owner: Any, name: str) -> bool:
    """Whether an attribute counts the rows of the vocabulary, and not something else of the same number."""
    weight = getattr(owner, "weight", None)
    return name == "vocab_size" or (weight is not None and weight.shape[0] != getattr(owner, name))
