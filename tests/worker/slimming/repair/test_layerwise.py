from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.architecture_rows import distinct, having_blocks
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, causal, opt, tiny_family
from worker.evaluation.memory import LiveStorages
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.masking import masked
from worker.slimming.repair import layer_pass, layerwise, ridge, stream_fit
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.layer_runner import LayerCall, run_layer, stack_inputs
from worker.slimming.repair.repairs import measure_moments, repair
from worker.slimming.scoring.objectives import token_scores
from worker.slimming.units.groups import Site
from worker.slimming.units.layers import layers_of
from worker.slimming.units.locating import locate

torch.set_num_threads(1)

METHOD = "least_squares_layerwise"


def has_observable_stream(family: str) -> bool:
    """Whether the residual stream behind each layer can be observed. Gemma 2 normalises outputs before it adds them."""
    return all(stack.stream is not None for stack in ARCHITECTURES[tiny_family(family).model_type].stacks)


def rows(family: str, count: int = 4, size: int = 2) -> CalibrationBatches:
    """So few tokens that a module's inputs can hold any output."""
    return CalibrationBatches(batches(family, examples(count), size), "margin")


def log_probabilities(model: PreTrainedModel, calibration: CalibrationBatches) -> Tensor:
    with torch.no_grad():
        return torch.cat([token_scores(model, batch) for batch in calibration.batches])


def post_norm_opt() -> PreTrainedModel:
    model = opt()
    model.config.do_layer_norm_before = False
    for layer in layers_of(model, ARCHITECTURES["opt"].stacks[0]):
        vars(layer)["do_layer_norm_before"] = False
    return model


MODELS: dict[str, tuple[str, Callable[[], PreTrainedModel]]] = {
    **{family: (family, TINY[family]) for family in distinct(having_blocks()) if has_observable_stream(family)},
    "opt, post-norm": ("opt", post_norm_opt),
    "gpt_neox, sequential residual": ("gpt_neox", lambda: causal("gpt_neox", use_parallel_residual=False)),
}


@pytest.mark.parametrize(
    ("name", "units"),
    [*((name, ["ffn"]) for name in MODELS), *((name, ["ffn", "heads"]) for name in ("llama", "phi3", "granite"))],
)
def test_a_whole_last_layer_compensates_for_the_cut_layers_before_it(
    name: str, units: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, make = MODELS[name]
    model, calibration = make(), rows(family)
    architecture = ARCHITECTURES[model.config.model_type]
    kept = {
        group.site: torch.arange(-(-group.count // 4) if group.site.layer == 0 else group.count)
        for group in locate(model, architecture, units)
    }
    dense = log_probabilities(model, calibration)
    monkeypatch.setattr(stream_fit, "STREAM_SHARE", 1.0)
    monkeypatch.setattr(ridge, "share", lambda inputs, tokens, least: min(least, 1e-4))
    errors = {}
    for method in ("least_squares", METHOD):
        model = make()
        repair(RepairInput(model, architecture, kept, calibration), method)
        with masked(model, architecture, kept):
            errors[method] = (log_probabilities(model, calibration) - dense).abs().max()
    assert errors["least_squares"] > 1e-3
    assert errors[METHOD] < errors["least_squares"] / 50


def test_layers_behind_a_removed_layer_compensate_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calibration = TINY["llama"](), rows("llama")
    architecture, dense = ARCHITECTURES["llama"], log_probabilities(model, calibration)
    whole = {group.site: torch.arange(group.count) for group in locate(model, architecture, ["ffn", "layers"])}
    kept = whole | {Site("decoder", 0, "layers"): torch.arange(0)}
    monkeypatch.setattr(stream_fit, "STREAM_SHARE", 1.0)
    monkeypatch.setattr(ridge, "share", lambda inputs, tokens, least: min(least, 1e-4))
    with masked(model, architecture, kept):
        without = log_probabilities(model, calibration)
    repair(RepairInput(model, architecture, kept, calibration), METHOD)
    with masked(model, architecture, kept):
        assert (log_probabilities(model, calibration) - dense).abs().max() < (without - dense).abs().max() / 50


def test_a_layer_behind_a_removed_layer_gets_its_own_attention_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calibration = causal("gemma2", sliding_window=4), rows("gemma2", count=2)
    architecture = ARCHITECTURES["gemma2"]
    (entry,) = stack_inputs(model, architecture.stacks[0], calibration.batches)
    sliding_BT, full_BT = (call.kwargs["attention_mask"] for call in entry.calls)
    assert not torch.equal(sliding_BT, full_BT)
    kept = {group.site: torch.arange(8) for group in locate(model, architecture, ["ffn"])}
    kept |= {Site("decoder", layer, "layers"): torch.arange(layer) for layer in (0, 1)}
    masks = list[Tensor]()

    def record(layer: nn.Module, hidden_BTD: Tensor, call: LayerCall) -> Tensor:
        masks.append(call.kwargs["attention_mask"])
        return run_layer(layer, hidden_BTD, call)

    monkeypatch.setattr(layer_pass, "run_layer", record)
    repair(RepairInput(model, architecture, kept, calibration), METHOD)
    of_first, *of_second = masks  # the dense model runs both layers, then the cut one the second
    assert torch.equal(of_first, sliding_BT)
    assert len(of_second) > 1
    assert all(torch.equal(mask_BT, full_BT) for mask_BT in of_second)


def test_a_layer_behind_repaired_heads_gets_what_their_layer_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calibration = TINY["llama"](), rows("llama", count=2)
    architecture, hidden = ARCHITECTURES["llama"], list[Tensor]()
    kept = {group.site: torch.arange(1) for group in locate(model, architecture, ["heads"])}

    def record(layer: nn.Module, hidden_BTD: Tensor, call: LayerCall) -> Tensor:
        hidden.append(hidden_BTD.clone())
        return run_layer(layer, hidden_BTD, call)

    monkeypatch.setattr(layer_pass, "run_layer", record)
    repair(RepairInput(model, architecture, kept, calibration), METHOD)
    handle = model.get_submodule("model.layers.1").register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    with masked(model, architecture, kept):
        log_probabilities(model, calibration)
    handle.remove()
    of_fit, of_model = hidden[-2:]  # the last layer is run last, in the cut model
    mask_BT = calibration.batches[0].masks["decoder"]
    torch.testing.assert_close(of_fit[mask_BT], of_model[mask_BT], rtol=1e-4, atol=1e-5)


def peak_bytes(method: str, num_layers: int = 2, num_rows: int = 4) -> int:
    """The most bytes that a repair with known moments allocates beside the model."""
    model, calibration = causal("llama", num_hidden_layers=num_layers), rows("llama", num_rows)
    groups = locate(model, ARCHITECTURES["llama"], ["ffn", "heads"])
    kept = {group.site: torch.arange(-(-group.count * 3 // 4)) for group in groups}
    repair_input = RepairInput(model, ARCHITECTURES["llama"], kept, calibration)
    moments = measure_moments(repair_input, method)
    assert moments is not None
    with LiveStorages() as alive:
        repair(replace(repair_input, moments=moments), method)
    return int(alive.peak)


def test_memory_grows_with_the_layers_no_faster_than_in_a_fit_of_all_at_once() -> None:
    grown = {method: peak_bytes(method, 12) - peak_bytes(method, 6) for method in ("least_squares", METHOD)}
    assert grown["least_squares"] > 0
    assert grown[METHOD] <= grown["least_squares"] * 1.05


def test_of_rows_that_do_not_fit_into_memory_a_part_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, calibration = ARCHITECTURES["llama"], rows("llama", count=12)
    alone, among, progress = TINY["llama"](), TINY["llama"](), list[tuple[int, int]]()
    groups = locate(alone, architecture, ["ffn"])
    kept = {group.site: torch.arange(8) for group in groups}
    moments = measure_moments(RepairInput(alone, architecture, kept, calibration), METHOD)
    assert moments is not None
    first = {path: replace(known, weights_N=known.weights_N[:1]) for path, known in moments.items()}
    repair(RepairInput(alone, architecture, kept, CalibrationBatches(calibration.batches[:1], "margin"), first), METHOD)
    monkeypatch.setattr(layerwise, "budget", lambda device: 1)
    count = RepairInput(
        among, architecture, kept, calibration, moments, lambda done, total: progress.append((done, total))
    )
    repair(count, METHOD)
    assert progress == [(1, 2), (2, 2)]
    for one, other in zip(alone.parameters(), among.parameters(), strict=True):
        assert torch.equal(one, other)


def test_memory_does_not_grow_with_rows_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    some, grown = peak_bytes(METHOD, num_rows=20), peak_bytes(METHOD, num_rows=80)
    assert grown > 2 * some
    monkeypatch.setattr(layerwise, "budget", lambda device: some)
    assert peak_bytes(METHOD, num_rows=80) < 2 * some


def test_progress_counts_the_batches_of_every_pass() -> None:
    progress = list[tuple[int, int]]()
    model, calibration = TINY["t5"](), rows("t5")
    kept = {group.site: torch.arange(8) for group in locate(model, ARCHITECTURES["t5"], ["ffn"])}
    count = RepairInput(
        model, ARCHITECTURES["t5"], kept, calibration, on_progress=lambda done, total: progress.append((done, total))
    )
    repair(count, METHOD)
    assert [done for done, _ in progress] == [1, 2, 4, 6, 8, 10]
    assert {total for _, total in progress} == {10}


def test_a_fit_with_a_bias_is_exact_for_inputs_far_from_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    input_NK, target_NO = (torch.randn(40, size, generator=generator) for size in (6, 3))
    weight_N, prior_OK = torch.rand(40, generator=generator), torch.zeros(3, 6, dtype=torch.float64)
    outputs = []
    for offset in (0, 100):
        inputs_NK, sums = input_NK / 100 + offset, stream_fit.RegressionSums.zeros(prior_OK, centred=True)
        for batch in (slice(0, 15), slice(15, 40)):
            sums.add(inputs_NK[batch], target_NO[batch] + offset, weight_N[batch])
        fit = sums.fit(prior_OK)
        assert fit.bias_O is not None
        outputs.append(inputs_NK.double() @ fit.weight_OK.T + fit.bias_O - offset)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-2, atol=1e-2)
