"""A request that removes nothing is refused before work, with what would be possible; the worker refuses it too."""

from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import TargetUnreachable
from service.planning import least_removal
from service.planning.plan import plan
from service.sources.access import Access
from tests.support.checkpoints import tokenizer
from tests.support.pipeline_jobs import Deployment
from tests.support.tiny_models import causal
from worker.slimming import allocation

# name -> (config of a tiny Llama, request, part of the message)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "one key-value head": (
        {"num_key_value_heads": 1},
        {"method": {"units": ["heads"]}},
        "a ratio of 0.3 removes nothing: none of the 1 key-value groups of the decoder can be removed: choose other",
    ),
    "one key-value head, ranked globally": (
        {"num_key_value_heads": 1},
        {"method": {"units": ["heads"], "scope": "global"}},
        "nothing can be removed: none of the 1 key-value groups",
    ),
    "one key-value head, half of it": (
        {"num_key_value_heads": 1},
        {"method": {"units": ["heads"]}, "target": {"ratio": 0.5}},
        "a ratio of 0.5 removes nothing",
    ),
    "a fifth of two layers": (
        {},
        {"method": {"units": ["layers"]}, "target": {"ratio": 0.2}},
        "leaves 1 of the 2 layers of the decoder, which is a ratio of 0.5$",
    ),
    "a fifth of two layers, ranked globally": (
        {},
        {"method": {"units": ["layers"], "scope": "global"}, "target": {"ratio": 0.2}},
        "leaves 1 of the 2 layers of the decoder",
    ),
    "a width that rounds up": (
        {},
        {"target": {"ratio": 0.1}, "output": {"round_to": 16}},
        "leaves 32 of the 48 feed-forward neurons of the decoder, which is a ratio of 0.333, or less with a smaller",
    ),
    "a width that rounds up in one layer": (
        {},
        {
            "target": {"ratio": 0.05},
            "method": {"scope": "global"},
            "output": {"layout": "per_layer", "round_to": 24},
        },
        "leaves 24 of the 48 feed-forward neurons",
    ),
    "a sweep": (
        {},
        {"target": {"sweep": [0.1, 0.4], "artifacts": [0.1]}, "output": {"round_to": 16}},
        "a ratio of 0.1 removes nothing",
    ),
    "a floor under the metric": (
        {"num_key_value_heads": 1},
        {"target": {"keep_metric": 0.5}, "method": {"units": ["heads"]}},
        "nothing can be removed|no smaller model",
    ),
    "a number of parameters": (
        {"num_key_value_heads": 1},
        {"target": {"parameters": 1000}, "method": {"units": ["heads"]}},
        "nothing can be removed|the smallest model that can be made",
    ),
}


def deployment(root: Path, settings: dict[str, Any]) -> Deployment:
    causal("llama", **settings).save_pretrained(root / "llama")
    tokenizer().save_pretrained(root / "llama")
    return Deployment(root)


@pytest.mark.parametrize("name", CASES)
def test_a_plan_refuses_what_removes_nothing(name: str, tmp_path: Path, access: Access) -> None:
    settings, fields, message = CASES[name]
    with pytest.raises(TargetUnreachable, match=message) as caught:
        plan(deployment(tmp_path, settings).request(**fields), access)
    assert caught.value.param == f"target.{next(iter(fields.get('target', {'ratio': 0.3})))}"


@pytest.mark.parametrize("name", CASES)
def test_the_worker_refuses_it_too(name: str, tmp_path: Path) -> None:
    settings, fields, _ = CASES[name]
    made = deployment(tmp_path, settings)
    with pytest.raises(TargetUnreachable) as caught:
        made.run(made.request(**fields))
    assert caught.value.param == f"target.{next(iter(fields.get('target', {'ratio': 0.3})))}"


def test_the_floor_of_a_plan_is_that_of_the_worker() -> None:
    assert (allocation.Rules().floor, allocation.TOLERANCE) == (least_removal.FLOOR, least_removal.TOLERANCE)
