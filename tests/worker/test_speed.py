"""How fast the model is before and after."""

import pytest
import torch
from torch import nn

from service.families import FAMILIES
from service.schemas import DenseSlim
from tests import checkpoints
from tests.models import TINY
from worker.data import padding
from worker.findings import peak_memory
from worker.prompts import Example, Kind
from worker.speed import RUNS, SIZES, Speed, compare


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_dense_and_slim_take_turns_on_batches_of_the_stated_size(name: str) -> None:
    torch.set_num_threads(1)
    dense, slim = TINY[name](), TINY[name]()
    kind: Kind = FAMILIES[dense.config.model_type].kind
    seen: list[tuple[str, torch.Size]] = []

    def follow(model: nn.Module, label: str) -> None:
        def see(_: nn.Module, __: object, inputs: dict[str, torch.Tensor]) -> None:
            seen.append((label, inputs["input_ids"].shape))

        model.register_forward_pre_hook(see, with_kwargs=True)

    follow(dense, "dense")
    follow(slim, "slim")
    examples = [Example((4, 5, 6), ((0,), (1,)), 0, "")]
    found = compare(dense, slim, examples, padding(dense, checkpoints.tokenizer(kind), kind), tokens=8)
    turns = [(label, torch.Size((rows, 8))) for rows in SIZES for _ in range(RUNS + 1) for label in ("dense", "slim")]
    assert seen == turns
    assert [(speed.batch, speed.tokens) for pair in found for speed in pair] == [(1, 8), (1, 8), (8, 8), (8, 8)]
    assert all(speed.milliseconds > 0 and speed.peak_bytes is None for pair in found for speed in pair)


def test_peak_memory_is_of_the_largest_pass_whatever_the_order() -> None:
    def pair(batch: int, peak: int) -> tuple[Speed, Speed]:
        return Speed(batch, 64, 1.0, peak), Speed(batch, 64, 1.0, peak - 1)

    for sizes in ([1, 8], [8, 1], [32, 1, 8]):
        found = peak_memory([pair(batch, batch * 100) for batch in sizes])
        assert found == DenseSlim(dense=max(sizes) * 100, slim=max(sizes) * 100 - 1)
