from itertools import pairwise

import torch
from torch import Tensor

from tests.models import TINY
from tests.worker.slimming.batches import batches, examples
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.attribution import score
from worker.slimming.criteria import Options
from worker.slimming.groups import Site, locate
from worker.slimming.selection import select
from worker.slimming.steps import in_steps, schedule

LLAMA = ARCHITECTURES["llama"]


def test_steps_are_nested_and_scored_on_what_is_left() -> None:
    model, made = TINY["llama"](), batches("llama", examples(6), 3)
    groups = locate(model, LLAMA, ["ffn"])
    # Signed scores: what is gone scores zero, and would come back before what scores below.
    options = Options(example_reduction="sum")

    def measure() -> dict[Site, Tensor]:
        return score(model, LLAMA, ["ffn"], made, "attribution", options)

    dense = measure()
    steps = list(in_steps(model, LLAMA, schedule(0.75, 3), measure, lambda s, r: select(s, groups, r, 4)))
    assert [step.ratio for step in steps] == [0.25, 0.5, 0.75]
    assert [step.kept[groups[0].site].numel() for step in steps] == [36, 24, 12]
    for earlier, later in pairwise(steps):
        assert all(set(later.kept[site].tolist()) <= set(earlier.kept[site].tolist()) for site in later.kept)
    assert torch.equal(steps[0].scores[groups[0].site], dense[groups[0].site])
    assert not torch.equal(steps[1].scores[groups[0].site], dense[groups[0].site])


def test_one_step_is_plain_selection() -> None:
    model = TINY["llama"]()
    groups = locate(model, LLAMA, ["ffn"])
    scores = {group.site: torch.rand(group.count) for group in groups}
    (only,) = in_steps(model, LLAMA, schedule(0.5, 1), lambda: scores, lambda s, r: select(s, groups, r, 4))
    expected = select(scores, groups, 0.5, 4)
    assert all(torch.equal(only.kept[site], expected[site]) for site in expected)
