"""LoRA weights on the tiny models: where they stand, that merging changes nothing, and that they leave no trace."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.support.tiny_models import TINY, inputs_of, logits
from tests.worker.checkpoints.model_classes.test_per_layer import unequal
from worker.checkpoints.dtypes import cast_weights
from worker.recovery.lora import Lora, attached, target_modules

PER_LAYER = ("llama", "t5", "bert", "gemma4_text")


def randomised(lora: Lora) -> None:
    """Give the LoRA weights values that change the model."""
    draw = torch.Generator().manual_seed(3)
    for each in lora.weights.values():
        each.data.copy_(0.1 * torch.randn(each.shape, generator=draw))


def traces(model: PreTrainedModel) -> list[str]:
    """What LoRA could leave in a model."""
    modules = [name for name, each in model.named_modules() if type(each).__module__.startswith("peft")]
    gradients = [name for name, each in model.named_parameters() if each.requires_grad or each.grad is not None]
    return modules + gradients + (["peft_config"] if hasattr(model, "peft_config") else [])


def model_of(name: str, layout: str) -> PreTrainedModel:
    return unequal(name)[0] if layout == "per_layer" else TINY[name]()


CASES = [*((name, "uniform") for name in TINY), *((name, "per_layer") for name in PER_LAYER)]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_merged_weights_compute_what_the_weights_beside_the_model_do(name: str, layout: str) -> None:
    torch.set_num_threads(1)
    model = model_of(name, layout).eval()
    plain = logits(model)
    with attached(model, 2, seed=0) as lora:
        assert torch.equal(logits(model), plain)  # they begin as no change
        randomised(lora)
        beside = logits(model)
        lora.merge()
    merged = logits(model)
    assert (beside - plain).abs().max() > 1e-2 * plain.abs().max()
    torch.testing.assert_close(merged, beside, rtol=1e-4, atol=1e-4 * float(beside.abs().max()))
    assert traces(model) == []
    assert [*model.state_dict()] == [*model_of(name, layout).state_dict()]


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert", "llama_classifier"])
def test_every_matrix_of_the_layers_has_lora_weights_and_no_other(name: str) -> None:
    model = TINY[name]()
    matrices = {path for path, each in model.named_modules() if isinstance(each, nn.Linear | Conv1D)}
    targets = set(target_modules(model))
    outside = {path for path in matrices - targets if any(part.isdigit() for part in path.split("."))}
    assert targets < matrices
    assert outside == set()
    with attached(model, 3, seed=0) as lora:
        shapes = [model.get_parameter(f"{path}.base_layer.weight").shape for path in targets]
        assert lora.parameters == sum(3 * (first + second) for first, second in shapes)
        assert {each.dtype for each in lora.weights.values()} == {torch.float32}


def test_error_within_the_context_leaves_the_model_as_it_was() -> None:
    model = TINY["llama"]()
    before = deepcopy(model.state_dict())

    def fail() -> None:
        with attached(model, 2, seed=0) as lora:
            randomised(lora)
            model(**inputs_of(model)).logits.sum().backward()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert traces(model) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(5)
        with attached(TINY["llama"](), 2, seed) as lora:
            states.append(lora.state())
        assert torch.equal(torch.rand(3), expected)
    one, same, other = states
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_half_precision_stays_beside_float32_lora_weights() -> None:
    model = TINY["llama"]()
    cast_weights(model, torch.bfloat16)
    with attached(model, 2, seed=0) as lora:
        assert {each.dtype for each in lora.weights.values()} == {torch.float32}
        assert model.get_parameter("model.layers.0.mlp.down_proj.base_layer.weight").dtype is torch.bfloat16
        assert logits(model).dtype is torch.bfloat16
