"""The linear modules in the layers of a model, and the pass that quantises them layer by layer on calibration rows.

Shape suffixes: N tokens of a batch, I inputs of a linear module.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from worker.quantisation.computing import computing_with
from worker.quantisation.weights import QuantisedWeight
from worker.slimming.architectures import Architecture, Stack
from worker.slimming.gram import add_gram
from worker.slimming.repair.layer_runner import LayerInput, run_layer, stack_inputs
from worker.slimming.scoring.objectives import Batch
from worker.slimming.units.layers import layers_of

# Rounds a weight; the second argument are the sums of products of its module's inputs over tokens, (I, I).
Calibrated = Callable[[Tensor, Tensor], QuantisedWeight]


def linear_modules(model: nn.Module, architecture: Architecture) -> dict[str, nn.Linear]:
    """Path in the model -> module, of all linear modules in its layers."""
    found: dict[str, nn.Linear] = {}
    for stack in architecture.stacks:
        for index, layer in enumerate(layers_of(model, stack)):
            found |= {f"{stack.layers}.{index}.{path}": module for path, module in _linear(layer).items()}
    return found


def _linear(layer: nn.Module) -> dict[str, nn.Linear]:
    return {path: module for path, module in layer.named_modules() if isinstance(module, nn.Linear)}


def calibrated(
    model: nn.Module,
    architecture: Architecture,
    batches: Sequence[Batch],
    quantise: Calibrated,
    on_layer: Callable[[int, int], None],
) -> dict[str, QuantisedWeight]:
    """The quantised weights of all linear modules. The model stays as it is.

    Each layer is quantised for the inputs that it gets from the layers before it as they are quantised. `on_layer` is
    called with the layers done and the number of layers.
    """
    found: dict[str, QuantisedWeight] = {}
    [stack] = architecture.stacks
    layers = layers_of(model, stack)
    with torch.no_grad():
        inputs = stack_inputs(model, stack, batches)
        for index, layer in enumerate(layers):
            on_layer(index, len(layers))
            grams = _grams(layer, stack, batches, inputs)
            weights = {path: quantise(module.weight, grams[path]) for path, module in _linear(layer).items()}
            with computing_with(layer, weights):
                outputs = [run_layer(layer, each.hidden_BTD, each.calls[0]) for each in inputs]
            inputs = [LayerInput(output, each.calls[1:]) for output, each in zip(outputs, inputs, strict=True)]
            found |= {f"{stack.layers}.{index}.{path}": weight for path, weight in weights.items()}
    return found


def _grams(
    layer: nn.Module, stack: Stack, batches: Sequence[Batch], inputs: Sequence[LayerInput]
) -> Mapping[str, Tensor]:
    """Path of a linear module in the layer -> the sum of x x^T over its inputs at all tokens, float32 (I, I)."""
    modules = _linear(layer)
    grams = {
        path: torch.zeros(module.in_features, module.in_features, device=module.weight.device)
        for path, module in modules.items()
    }
    for batch, each in zip(batches, inputs, strict=True):
        with ExitStack() as hooks:
            for path, module in modules.items():
                hooks.enter_context(_adding(module, grams[path], batch.masks[stack.name]))
            run_layer(layer, each.hidden_BTD, each.calls[0])
    return grams


@contextmanager
def _adding(module: nn.Linear, gram_II: Tensor, mask_BT: Tensor) -> Iterator[None]:
    """Within the context the module's inputs at tokens are added to the sums."""

    def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        add_gram(gram_II, args[0].reshape(*mask_BT.shape, -1)[mask_BT].float())

    handle = module.register_forward_pre_hook(add)
    try:
        yield
    finally:
        handle.remove()
