"""The parts of the benchmarks of a whole job, of the speed of a slim model, and of how cost grows."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.job import Measured, figures
from benchmarks.parts.job.sampler import Sampler, kind_of
from benchmarks.parts.scale.exponents import exponent
from benchmarks.parts.scale.measure import PARTS, in_a_process
from benchmarks.parts.scale.operations import memory, operations
from benchmarks.parts.scale.shapes import Shape, batches, model
from benchmarks.slim_speed import Cell
from service.storage.object_store import digest_file
from tests.support.tiny_models import causal, inputs_of

torch.set_num_threads(1)


def test_stack_shows_the_kind_of_work() -> None:
    model, kinds = causal("llama"), list[str]()

    def see(*_: object) -> None:
        kinds.append(kind_of(sys._getframe()))

    model.get_input_embeddings().register_forward_hook(see)
    logits: Tensor = model(**inputs_of(model)).logits
    logits.register_hook(see)
    logits.sum().backward()
    see()
    assert kinds == ["forward", "backward", "other"]


def test_samples_add_up_to_the_time_of_the_block(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(2**24))
    sampler, model = Sampler(), nn.Linear(256, 256)
    with sampler.sampling(), torch.inference_mode():
        while not {"hash", "forward"} <= sampler.seconds.keys():
            digest_file(file)
            for _ in range(100):
                model(torch.ones(256, 256))
    assert sampler.seconds.keys() <= {"hash", "forward", "other"}
    assert 0 < sum(sampler.cpu_seconds.values()) <= 1.1 * sum(sampler.seconds.values())


def job(total: float, **kinds: float) -> Measured:
    return Measured(total, start=0.1, kinds=kinds, cpu_kinds={"fit": 3.0, "tokens": 1.0}, stages={}, peak_to_model=1.5)


def test_overhead_is_the_time_that_is_no_work() -> None:
    assert job(10, load=1, forward=4, backward=2, fit=1, write=1, tokens=0.5).overhead == pytest.approx(0.1)
    found = {"t5": [job(10, forward=9), job(10, forward=8), job(10, forward=2)], "smollm2": [job(10, forward=9)] * 3}
    assert figures(found, 3)["overhead_share"] == 0.2
    assert figures(found, 3)["cpu_overhead_share"] == 0.25
    assert figures(found, 3)["overhead_ranges"]["t5"] == [0.1, 0.8]


def test_exponents_are_the_slopes_of_logarithms() -> None:
    sizes = (2, 4, 8)
    assert exponent(sizes, [3 * size**2 for size in sizes]) == pytest.approx(2)
    assert exponent(sizes, [7, 7, 7]) == pytest.approx(0)


def test_counted_operations_grow_with_the_width_as_the_parts_do() -> None:
    sizes = (2**18, 2**19)
    shapes = [Shape(width=size) for size in sizes]
    slopes = [exponent(sizes, [operations(shape, part) for shape in shapes]) for part in PARTS]
    assert slopes == pytest.approx([1, 2, 3], abs=0.05)
    assert exponent(sizes, [memory(shape, "moments") for shape in shapes]) == pytest.approx(2, abs=0.05)


def test_random_model_of_a_shape_is_scored() -> None:
    shape = Shape(hidden=32, width=48, layers=1, vocabulary=64, rows=5, length=8, tokens_per_batch=16)
    made, rows = model(shape, torch.device("cpu")), batches(shape, torch.device("cpu"))
    assert [batch.num_examples for batch in rows] == [2, 2, 1]
    assert [index for batch in rows for index in batch.index_E.tolist()] == list(range(5))
    assert made.model.layers[0].mlp.down_proj.weight.shape == (32, 48)
    cost = in_a_process(shape)
    assert cost.parts.keys() == set(PARTS)
    assert all(part.seconds > 0 for part in cost.parts.values())


def test_share_of_the_ideal_speed_up() -> None:
    cell = Cell("decode", 1, {"dense": [4.0, 2.0, 8.0], "uniform": [2.0, 2.0, 2.0]}, {"uniform": 2.5})
    assert cell.share("uniform") == pytest.approx(0.8)
    assert cell.quartiles("uniform") == [0.6, 1.2]
