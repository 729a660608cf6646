import pytest
import torch
from torch import Tensor

from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.repair.layer_runner import run_layer, stack_inputs
from worker.slimming.scoring.objectives import token_scores
from worker.slimming.units.layers import layers_of

torch.set_num_threads(1)


@pytest.mark.parametrize("family", TINY)
def test_layers_run_one_at_a_time_give_the_output_of_the_model(family: str) -> None:
    model, made = TINY[family]().eval(), batches(family, examples(6), 3)
    for stack in ARCHITECTURES[model.config.model_type].stacks:
        layers, expected = layers_of(model, stack), list[Tensor]()

        def record(layer: object, args: object, output: Tensor | tuple[Tensor], into: list[Tensor] = expected) -> None:
            into.append(output[0] if isinstance(output, tuple) else output)

        with torch.no_grad(), layers[-1].register_forward_hook(record):
            for batch in made:
                token_scores(model, batch)
        with torch.no_grad():
            for entry, batch, output_BTD in zip(stack_inputs(model, stack, made), made, expected, strict=True):
                hidden_BTD = entry.hidden_BTD
                for layer, call in zip(layers, entry.calls, strict=True):
                    hidden_BTD = run_layer(layer, hidden_BTD, call)
                mask_BT = batch.masks[stack.name]
                found, wanted = (states.reshape(*mask_BT.shape, -1)[mask_BT] for states in (hidden_BTD, output_BTD))
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", TINY)
def test_stack_inputs_computes_only_the_first_layer_and_leaves_the_model_unchanged(family: str) -> None:
    model, made = TINY[family]().eval(), batches(family, examples(4), 4)
    for stack in ARCHITECTURES[model.config.model_type].stacks:
        layers, computed = layers_of(model, stack), list[int]()
        for index, layer in enumerate(layers):
            *_, last = (path for path, parameter in layer.named_parameters() if parameter.dim() == 2)
            linear = layer.get_submodule(last.rpartition(".")[0])
            linear.register_forward_hook(lambda *_, index=index, into=computed: into.append(index))
        with torch.no_grad():
            stack_inputs(model, stack, made)
            assert computed == [0]
            computed.clear()
            token_scores(model, made[0])
            assert computed == list(range(len(layers)))
