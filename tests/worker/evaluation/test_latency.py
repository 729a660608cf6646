"""The latency and the memory of forward passes."""

import pytest
import torch
from torch import nn

from service.families.family import Kind
from tests.support import checkpoints
from tests.support.tiny_models import TINY, causal, family_of_model
from worker.data.batching import padding
from worker.data.examples import Example
from worker.evaluation.latency import RUNS, SIZES, profile_in_turns
from worker.evaluation.memory import LiveStorages, weight_bytes


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_dense_and_slim_model_pass_in_turns(name: str) -> None:
    torch.set_num_threads(1)
    dense, slim = TINY[name](), TINY[name]()
    kind: Kind = family_of_model(dense).kind
    seen: list[tuple[str, torch.Size]] = []

    def follow(model: nn.Module, label: str) -> None:
        def see(_: nn.Module, __: object, inputs: dict[str, torch.Tensor]) -> None:
            seen.append((label, inputs["input_ids"].shape))

        model.register_forward_pre_hook(see, with_kwargs=True)

    follow(dense, "dense")
    follow(slim, "slim")
    examples = [Example((4, 5, 6), ((0,), (1,)), 0, "")]
    found = profile_in_turns(dense, slim, examples, padding(dense, checkpoints.tokenizer(kind), kind), tokens=8)
    turns = [(label, torch.Size((rows, 8))) for rows in SIZES for _ in range(RUNS + 2) for label in ("dense", "slim")]
    assert seen == turns
    assert [(speed.batch, speed.tokens) for pair in found for speed in pair] == [(1, 8), (1, 8), (8, 8), (8, 8)]
    for profile in (profile for pair in found for profile in pair):
        assert 0 < profile.quartiles.first <= profile.milliseconds <= profile.quartiles.third


def test_narrower_model_takes_less_memory() -> None:
    torch.set_num_threads(1)
    dense, slim = causal("llama", intermediate_size=256), causal("llama", intermediate_size=64)
    examples = [Example((4, 5, 6), ((0,), (1,)), 0, "")]
    found = profile_in_turns(dense, slim, examples, padding(dense, checkpoints.tokenizer("causal"), "causal"), tokens=8)
    saved = weight_bytes(dense) - weight_bytes(slim)
    assert all(before.peak_bytes - now.peak_bytes > saved for before, now in found)
    (small, _), (large, _) = found
    assert large.peak_bytes > small.peak_bytes > weight_bytes(dense)


def test_memory_is_counted_outside_the_timed_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass in which memory is counted is several times slower."""
    model, events = causal("llama"), list[str]()
    padded = padding(model, checkpoints.tokenizer("causal"), "causal")

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            events.append("clock")
            return 0.0

    class Watched(LiveStorages):
        def __init__(self) -> None:
            events.append("watch")
            super().__init__()

    monkeypatch.setattr("worker.evaluation.latency.time", Clock)
    monkeypatch.setattr("worker.evaluation.memory.LiveStorages", Watched)
    profile_in_turns(model, model, [Example((4, 5, 6), ((0,), (1,)), 0, "")], padded, tokens=8, sizes=[1])
    assert events == ["clock"] * 4 * (RUNS + 1) + ["watch"] * 2
