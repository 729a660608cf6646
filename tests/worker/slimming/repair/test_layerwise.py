from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, causal, opt, tiny_family
from worker.evaluation.memory import Alive
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.repair import layer_pass, layerwise
from worker.slimming.repair.layer_runner import Call, enter, run
from worker.slimming.repair.repairs import moments_of, repair, repair_again
from worker.slimming.scoring.objectives import token_log_probabilities
from worker.slimming.scoring.second_moments import Rows
from worker.slimming.surgery import masked
from worker.slimming.units import Site, layers_of, locate

torch.set_num_threads(1)

METHOD = "least_squares_layerwise"


def shows_its_stream(family: str) -> bool:
    """Whether the residual stream behind each layer can be seen; gemma2 normalises what is added to it."""
    return all(stack.stream is not None for stack in ARCHITECTURES[tiny_family(family).model_type].stacks)


def rows(family: str, count: int = 4, size: int = 2) -> Rows:
    """So few tokens that a module's inputs can hold any output."""
    return Rows(batches(family, examples(count), size), "margin")


def answers(model: PreTrainedModel, given: Rows) -> Tensor:
    with torch.no_grad():
        return torch.cat([token_log_probabilities(model, batch) for batch in given.batches])


def post_norm_opt() -> PreTrainedModel:
    model = opt()
    model.config.do_layer_norm_before = False
    for layer in layers_of(model, ARCHITECTURES["opt"].stacks[0]):
        vars(layer)["do_layer_norm_before"] = False
    return model


MODELS: dict[str, tuple[str, Callable[[], PreTrainedModel]]] = {
    **{family: (family, make) for family, make in TINY.items() if shows_its_stream(family)},
    "opt, normalised behind": ("opt", post_norm_opt),
    "gpt_neox, one after the other": ("gpt_neox", lambda: causal("gpt_neox", use_parallel_residual=False)),
}


@pytest.mark.parametrize(
    ("name", "units"), [*((name, ["ffn"]) for name in MODELS), ("llama", ["ffn", "heads"]), ("phi3", ["ffn", "heads"])]
)
def test_a_last_layer_that_stays_whole_makes_up_for_the_layers_before_it(
    name: str, units: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, make = MODELS[name]
    model, given = make(), rows(family)
    architecture = ARCHITECTURES[model.config.model_type]
    kept = {
        group.site: torch.arange(-(-group.count // 4) if group.site.layer == 0 else group.count)
        for group in locate(model, architecture, units)
    }
    dense = answers(model, given)
    monkeypatch.setattr(layerwise, "MADE_UP", 1.0)
    monkeypatch.setattr(layerwise, "RIDGE", 1e-4)
    errors = {}
    for method in ("least_squares", METHOD):
        model = make()
        repair(model, architecture, kept, given, method)
        with masked(model, architecture, kept):
            errors[method] = (answers(model, given) - dense).abs().max()
    assert errors["least_squares"] > 1e-3
    assert errors[METHOD] < errors["least_squares"] / 50


def test_what_a_layer_that_goes_has_added_is_made_up_for_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = TINY["llama"](), rows("llama")
    architecture, dense = ARCHITECTURES["llama"], answers(model, given)
    whole = {group.site: torch.arange(group.count) for group in locate(model, architecture, ["ffn", "layers"])}
    kept = whole | {Site("decoder", 0, "layers"): torch.arange(0)}
    monkeypatch.setattr(layerwise, "MADE_UP", 1.0)
    monkeypatch.setattr(layerwise, "RIDGE", 1e-4)
    with masked(model, architecture, kept):
        without = answers(model, given)
    repair(model, architecture, kept, given, METHOD)
    with masked(model, architecture, kept):
        assert (answers(model, given) - dense).abs().max() < (without - dense).abs().max() / 50


def test_a_layer_behind_one_that_goes_is_called_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = causal("gemma2", sliding_window=4), rows("gemma2", count=2)
    architecture = ARCHITECTURES["gemma2"]
    (entry,) = enter(model, architecture.stacks[0], given.batches)
    sliding_BT, full_BT = (call.kwargs["attention_mask"] for call in entry.calls)
    assert not torch.equal(sliding_BT, full_BT)
    kept = {group.site: torch.arange(8) for group in locate(model, architecture, ["ffn"])}
    kept |= {Site("decoder", layer, "layers"): torch.arange(layer) for layer in (0, 1)}
    masks = list[Tensor]()

    def note(layer: nn.Module, hidden_BTD: Tensor, call: Call) -> Tensor:
        masks.append(call.kwargs["attention_mask"])
        return run(layer, hidden_BTD, call)

    monkeypatch.setattr(layer_pass, "run", note)
    repair(model, architecture, kept, given, METHOD)
    of_first, *of_second = masks  # both in the dense model, then the one that stays in the cut one
    assert torch.equal(of_first, sliding_BT)
    assert len(of_second) > 1
    assert all(torch.equal(mask_BT, full_BT) for mask_BT in of_second)


def peak_bytes(method: str, num_layers: int = 2, num_rows: int = 4) -> int:
    """The most that a repair with known moments holds beside the model."""
    model, given = causal("llama", num_hidden_layers=num_layers), rows("llama", num_rows)
    groups = locate(model, ARCHITECTURES["llama"], ["ffn", "heads"])
    kept = {group.site: torch.arange(-(-group.count * 3 // 4)) for group in groups}
    moments = moments_of(model, ARCHITECTURES["llama"], groups, given, method)
    assert moments is not None
    with Alive() as alive:
        repair_again(model, ARCHITECTURES["llama"], kept, given, method, moments)
    return int(alive.peak)


def test_a_longer_decoder_takes_no_more_memory_than_a_fit_of_all_layers_at_once() -> None:
    grown = {method: peak_bytes(method, 12) - peak_bytes(method, 6) for method in ("least_squares", METHOD)}
    assert grown["least_squares"] > 0
    assert grown[METHOD] <= grown["least_squares"] * 1.05


def test_of_more_rows_than_there_is_room_for_a_part_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, given = ARCHITECTURES["llama"], rows("llama", count=12)
    alone, among, heard = TINY["llama"](), TINY["llama"](), list[tuple[int, int]]()
    groups = locate(alone, architecture, ["ffn"])
    kept = {group.site: torch.arange(8) for group in groups}
    moments = moments_of(alone, architecture, groups, given, METHOD)
    assert moments is not None
    first = {path: replace(known, weights_N=known.weights_N[:1]) for path, known in moments.items()}
    repair_again(alone, architecture, kept, Rows(given.batches[:1], "margin"), METHOD, first)
    monkeypatch.setattr(layerwise, "STREAM_BYTES", 1)
    repair_again(among, architecture, kept, given, METHOD, moments, lambda done, total: heard.append((done, total)))
    assert heard == [(1, 2), (2, 2)]
    for one, other in zip(alone.parameters(), among.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_room_that_rows_take_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    some, grown = peak_bytes(METHOD, num_rows=20), peak_bytes(METHOD, num_rows=80)
    assert grown > 2 * some
    monkeypatch.setattr(layerwise, "STREAM_BYTES", some)
    assert peak_bytes(METHOD, num_rows=80) < 2 * some


def test_every_pass_is_counted() -> None:
    heard = list[tuple[int, int]]()
    model, given = TINY["t5"](), rows("t5")
    kept = {group.site: torch.arange(8) for group in locate(model, ARCHITECTURES["t5"], ["ffn"])}
    repair(model, ARCHITECTURES["t5"], kept, given, METHOD, lambda done, total: heard.append((done, total)))
    assert [done for done, _ in heard] == [1, 2, 4, 6, 8, 10]
    assert {total for _, total in heard} == {10}


def test_a_fit_with_a_bias_does_not_feel_how_far_from_zero_its_inputs_are() -> None:
    generator = torch.Generator().manual_seed(0)
    input_NK, target_NO = (torch.randn(40, size, generator=generator) for size in (6, 3))
    weight_N, prior_OK = torch.rand(40, generator=generator), torch.zeros(3, 6, dtype=torch.float64)
    answers = []
    for offset in (0, 100):
        inputs_NK, sums = input_NK / 100 + offset, layerwise.Sums.like(prior_OK, centred=True)
        for batch in (slice(0, 15), slice(15, 40)):
            sums.add(inputs_NK[batch], target_NO[batch] + offset, weight_N[batch])
        fit = sums.fit(prior_OK)
        assert fit.bias_O is not None
        answers.append(inputs_NK.double() @ fit.weight_OK.T + fit.bias_O - offset)
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-2, atol=1e-2)
