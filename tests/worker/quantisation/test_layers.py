"""The pass over the layers: each weight is quantised for the inputs that the quantised layers before it give."""

import torch
from torch import Tensor

from tests.support.batches import batches, examples
from tests.support.tiny_models import causal
from worker.quantisation.computing import computing_with
from worker.quantisation.layers import calibrated, linear_modules
from worker.quantisation.weights import QuantisedWeight, rounded, scale_of
from worker.slimming.architectures import ARCHITECTURES

LLAMA = ARCHITECTURES["llama"]


def test_each_layer_sees_the_quantised_layers_before_it() -> None:
    model, rows = causal("llama"), batches("llama", examples(6), 2, extra_padding=1)
    grams: list[Tensor] = []

    def quantise(weight_OI: Tensor, gram_II: Tensor) -> QuantisedWeight:
        grams.append(gram_II)
        return rounded(weight_OI, scale_of(weight_OI, 4, None, torch.float32), 4)

    found = calibrated(model, LLAMA, rows, quantise, lambda done, total: None)
    modules = linear_modules(model, LLAMA)
    assert list(found) == list(modules)
    path = "model.layers.1.mlp.down_proj"
    first = {name: weight for name, weight in found.items() if ".layers.0." in name}
    expected = torch.zeros_like(grams[-1])
    seen: list[Tensor] = []
    handle = modules[path].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad(), computing_with(model, first):
        for batch in rows:
            model(**batch.inputs)
            states = seen.pop()[batch.masks["decoder"]]
            expected += states.T @ states
    handle.remove()
    place = list(modules).index(path)
    torch.testing.assert_close(grams[place], expected, rtol=1e-4, atol=1e-5)


def test_the_model_stays_as_it_is() -> None:
    model = causal("llama")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    weights = {
        path: rounded(module.weight, scale_of(module.weight, 8, None, torch.float32), 8)
        for path, module in linear_modules(model, LLAMA).items()
    }
    inputs = torch.arange(5).unsqueeze(0)
    with torch.no_grad():
        dense = model(inputs).logits
        with computing_with(model, weights, activation_bits=8):
            assert 0 < (model(inputs).logits - dense).abs().max() < 0.1 * dense.abs().max()
        assert torch.equal(model(inputs).logits, dense)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
