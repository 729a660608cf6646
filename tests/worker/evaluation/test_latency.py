"""The latency and the memory of forward passes."""

import pytest
import torch
from torch import nn

from service.models.families.family import Kind
from tests.support import checkpoints
from tests.support.tiny_models import TINY, causal, family_of_model
from worker.data.batching import padding
from worker.data.examples import Example
from worker.evaluation.latency import RUNS, SIZES, profile
from worker.evaluation.memory import LiveStorages, weight_bytes


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_each_batch_size_is_timed_after_a_pass_that_warms_up(name: str) -> None:
    torch.set_num_threads(1)
    model, seen = TINY[name](), list[torch.Size]()
    kind: Kind = family_of_model(model).kind

    def see(_: nn.Module, __: object, inputs: dict[str, torch.Tensor]) -> None:
        seen.append(inputs["input_ids"].shape)

    model.register_forward_pre_hook(see, with_kwargs=True)
    examples = [Example((4, 5, 6), ((0,), (1,)), 0, "")]
    found = profile(model, examples, padding(model, checkpoints.tokenizer(kind), kind), tokens=8)
    assert seen == [torch.Size((rows, 8)) for rows in SIZES for _ in range(RUNS + 2)]  # one counts the memory
    assert [(each.batch, each.tokens) for each in found] == [(1, 8), (8, 8)]
    for each in found:
        assert 0 < each.quartiles.first <= each.milliseconds <= each.quartiles.third


def test_narrower_model_takes_less_memory() -> None:
    torch.set_num_threads(1)
    dense, slim = causal("llama", intermediate_size=256), causal("llama", intermediate_size=64)
    examples = [Example((4, 5, 6), ((0,), (1,)), 0, "")]
    padded = padding(dense, checkpoints.tokenizer("causal"), "causal")
    before, now = (profile(model, examples, padded, tokens=8) for model in (dense, slim))
    saved = weight_bytes(dense) - weight_bytes(slim)
    assert all(whole.peak_bytes - cut.peak_bytes > saved for whole, cut in zip(before, now, strict=True))
    assert before[1].peak_bytes > before[0].peak_bytes > weight_bytes(dense)


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
    profile(model, [Example((4, 5, 6), ((0,), (1,)), 0, "")], padded, tokens=8, sizes=[1])
    assert events == ["clock"] * 2 * (RUNS + 1) + ["watch"]
