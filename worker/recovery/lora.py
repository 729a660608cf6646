"""LoRA weights beside every matrix in the layers of a model, by PEFT: attached, merged, and always removed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from worker.slimming.architectures import architecture_of
from worker.slimming.units.layers import layers_of

if TYPE_CHECKING:
    from peft import LoraModel

NAME = "recovery"
ALPHA_PER_RANK = 2  # the LoRA weights count twice, whatever their rank


@dataclass(frozen=True)
class Lora:
    """The LoRA weights that are attached to a model: float32, and the only weights with gradients."""

    tuner: "LoraModel"

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Name -> weights."""
        return {name: each for name, each in self.tuner.model.named_parameters() if each.requires_grad}

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(each.numel() for each in self.weights.values())

    def state(self) -> dict[str, Tensor]:
        """A copy of the weights."""
        return {name: each.detach().clone() for name, each in self.weights.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the weights to those of a copy."""
        for name, each in self.weights.items():
            each.data.copy_(state[name])

    def merge(self) -> None:
        """Add the weights to those that they stand beside, in the dtype of these, and remove them."""
        with warnings.catch_warnings(action="ignore"):
            self.tuner.merge_and_unload()


def target_modules(model: nn.Module) -> list[str]:
    """The paths of all matrices in the layers of a model: not of its embeddings, and not of its head."""
    layers = {layer for stack in architecture_of(model).stacks for layer in layers_of(model, stack)}
    return sorted(
        f"{path}.{name}"
        for path, layer in model.named_modules()
        if layer in layers
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    )


@contextmanager
def attached(model: PreTrainedModel, rank: int, seed: int) -> Iterator[Lora]:
    """The model with LoRA weights, which begin as no change of it. They are gone after the context, whatever happened,
    and with them every gradient; so the model is as before unless they were merged."""
    from peft import LoraConfig, LoraModel  # slow to import, and needed by few jobs

    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA_PER_RANK * rank,
        lora_dropout=0.0,
        target_modules=target_modules(model),
    )
    _forget(model)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(seed)
        tuner = LoraModel(model, config, NAME)
    model.eval()
    lora = Lora(tuner)
    for each in lora.weights.values():
        each.data = each.data.float()
    try:
        yield lora
    finally:
        tuner.unload()
        _forget(model)
        model.requires_grad_(False)


def _forget(model: Any) -> None:
    """Remove the config that PEFT leaves at a model."""
    if hasattr(model, "peft_config"):
        del model.peft_config
