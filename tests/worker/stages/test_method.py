"""The defaults of a job's method."""

from typing import Any

import pytest

from service.api.openapi.examples import INLINE
from service.contract.options import Layout
from service.contract.request.job_request import JobRequest
from tests.support.tiny_models import causal
from worker.slimming import selection
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.units.locating import locate
from worker.stages.method import rules


def request_for(**method: Any) -> JobRequest:
    task = INLINE["task"] | {"general": {"rows": [{"text": "a plain text"}] * 4}}
    return JobRequest.model_validate(INLINE | {"task": task, "method": method})


def test_random_scores_remove_similar_shares_of_heads_and_neurons() -> None:
    model, llama = causal("llama", num_hidden_layers=8), ARCHITECTURES["llama"]
    scores = score(model, llama, ["ffn", "heads"], [], "random", Options()).scores
    told = rules(request_for(criterion="random", units=["ffn", "heads"], scope="global"), Layout.per_layer)
    groups = locate(model, llama, ["ffn", "heads"])
    kept = selection.select(scores, groups, 0.3, 1, told)
    gone = {}
    for kind in ("ffn", "heads"):
        members = [group for group in groups if group.kind == kind]
        left = sum(kept[group.site].numel() for group in members)
        gone[kind] = 1 - left / sum(group.count for group in members)
    assert gone["heads"] == pytest.approx(gone["ffn"], abs=0.15)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_normalisation_defaults_to_that_of_the_criterion(criterion: str) -> None:
    means = ("random", "magnitude", "activation", "wanda", "frequency", "router_weight", "reap", "easy_ep")
    meaningless = dict.fromkeys(means, "mean") | dict.fromkeys(("flap", "selectivity"), "standard")
    by_default, asked = (
        rules(request_for(criterion=criterion, scope="global", **more), Layout.uniform).normalisation
        for more in ({}, {"normalisation": "none"})
    )
    assert (by_default, asked) == (meaningless.get(criterion, "none"), "none")
