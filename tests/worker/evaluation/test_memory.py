"""The memory of a forward pass."""

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from tests.support import checkpoints
from tests.support.tiny_models import TINY, causal, family_of_model
from worker.data.batching import padding
from worker.data.examples import Example
from worker.evaluation.latency import repeated_prompt
from worker.evaluation.memory import peak_bytes, weight_bytes
from worker.slimming.scoring.objectives import Batch

ROWS, TOKENS, WIDTH, INNER = 8, 16, 32, 128
FLOAT = 4


def batch_for(model: Any, rows: int = ROWS) -> Batch:
    kind = family_of_model(model).kind
    padded = padding(model, checkpoints.tokenizer(kind), kind)
    return repeated_prompt([Example((4, 5, 6), ((0,), (1,)), 0, "")], padded, rows, TOKENS)


class Block(nn.Module):
    """An embedding and a feed-forward network between a view and a change in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, WIDTH)
        self.up = nn.Linear(WIDTH, INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)
        self.register_buffer("scale", torch.ones(5))

    def forward(self, input_ids: Tensor, **_: Tensor) -> Tensor:
        given = self.embedding(input_ids).view(-1, WIDTH)
        inner = self.up(given).mul_(2)
        inner = torch.relu(inner)  # both are alive for a moment
        down: Tensor = self.down(inner)
        return down


def test_peak_is_the_weights_and_the_live_tensors() -> None:
    block = Block()
    weights = (10 * WIDTH + 2 * WIDTH * INNER + 5) * FLOAT
    activations = ROWS * TOKENS * (WIDTH + 2 * INNER) * FLOAT
    assert weight_bytes(block) == weights
    assert peak_bytes(block, batch_for(causal("llama"))) == weights + activations


def test_tied_weights_count_once() -> None:
    tied, untied = causal("llama", tie_word_embeddings=True), causal("llama", tie_word_embeddings=False)
    assert weight_bytes(untied) - weight_bytes(tied) == tied.lm_head.weight.nbytes


@pytest.mark.parametrize("name", TINY)
def test_peak_agrees_with_the_allocations_of_torch(name: str) -> None:
    """The two differ by the temporary memory of kernels alone."""
    torch.set_num_threads(1)
    model = TINY[name]()
    batch = batch_for(model)
    found = peak_bytes(model, batch) - weight_bytes(model)
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(**batch.inputs)
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    allocated = max(accumulate(changes))
    assert 0.98 * allocated <= found <= allocated


def test_memory_grows_with_the_rows_and_the_width() -> None:
    wide, narrow = causal("llama", intermediate_size=256), causal("llama", intermediate_size=64)
    small, large = batch_for(wide, 1), batch_for(wide, 8)
    assert peak_bytes(wide, small) == peak_bytes(wide, small)
    assert peak_bytes(wide, large) > peak_bytes(wide, small)
    assert peak_bytes(wide, large) - peak_bytes(narrow, large) > weight_bytes(wide) - weight_bytes(narrow)
