"""A trained T5: every unit, layout, criterion and repair that an encoder-decoder has, through the pipeline."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.answers.result import Result
from service.contract.criteria import CRITERIA, Criterion
from service.contract.options import ExampleReduction, Normalisation, Repair, Scope, TaskKind, TokenReduction, Unit
from service.contract.request.job_request import JobRequest
from service.contract.request.method import OBJECTIVES
from service.jobs.record import new_record
from service.models.families.table import FAMILIES
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support.criteria import served
from tests.support.progress import IgnoredProgress
from worker import pipeline

SHARED = Path(__file__).parents[2] / "shared"
MODEL = SHARED / "models/t5-multitask-tiny"

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the trained T5 and its rows are not here")

SCORED = [unit for unit in FAMILIES["t5"].units if unit is not Unit.vocabulary]
UNITS = [[unit] for unit in SCORED] + [[Unit.ffn, Unit.heads], [Unit.ffn, Unit.head_dims], SCORED]
REDUCED = {"criterion": "attribution", "units": ["ffn"]}
BUDGET = {"units": ["ffn", "heads"], "scope": "global"}
CASES: dict[str, dict[str, Any]] = {
    **{f"{'+'.join(units)} uniform": {"units": units, "scope": "global"} for units in UNITS},
    **{f"{'+'.join(units)} own": {"units": units, "scope": "global", "layout": "per_layer"} for units in UNITS},
    **{
        criterion: {"criterion": criterion, "units": served(criterion, ["ffn"]), "scope": scope}
        for criterion in Criterion
        for scope in [Scope.all if Unit.ffn in CRITERIA[criterion].unserved else Scope.layer]
    },
    **{
        f"{criterion} all units": {"criterion": criterion, "units": SCORED, "scope": "global", "steps": 2}
        for criterion in Criterion
        if not {*SCORED} & {*CRITERIA[criterion].unserved}
    },
    **{
        f"{repair} {layout}": {"repair": repair, "units": ["ffn", "heads"], "scope": "global", "layout": layout}
        for repair in (Repair.least_squares, Repair.least_squares_layerwise)
        for layout in ("uniform", "per_layer")
    },
    **{f"objective {each}": REDUCED | {"objective": each} for each in OBJECTIVES[TaskKind.classification]},
    **{f"tokens {each}": REDUCED | {"token_reduction": each} for each in TokenReduction},
    **{f"rows {each}": REDUCED | {"example_reduction": each} for each in ExampleReduction},
    "absolute": REDUCED | {"sign": "absolute"},
    **{f"normalisation {each}": BUDGET | {"criterion": "attribution", "normalisation": each} for each in Normalisation},
    "protected layers": {"units": ["layers"], "scope": "global", "protect_first": 1},
    "protected layers of their own width": REDUCED | {"scope": "global", "layout": "per_layer", "protect_last": 1},
    "controls": BUDGET | {"controls": True, "repair": "none"},
    "indices": BUDGET | {"formats": ["indices"], "repair": "none"},
    "two steps, repaired": {"units": ["ffn", "head_dims"], "steps": 2, "repair": "least_squares"},
}


def rows(name: str, limit: int) -> dict[str, Any]:
    return {"uri": (SHARED / f"data/sst2/{name}.jsonl").as_uri(), "limit": limit}


def slim(scratch: Path, method: dict[str, Any], task: dict[str, Any], ratio: float = 0.3) -> Result:
    """The result of a job on the trained T5, with the template that it was trained with."""
    own = json.loads((MODEL / "templates.json").read_text())["sst2"]
    method = dict(method)
    output = {"round_to": 16, "layout": method.pop("layout", "uniform")}
    output["formats"] = method.pop("formats", ["safetensors"])
    body = {
        "model": {"uri": MODEL.as_uri()},
        "task": {"template": own["template"], "labels": own["labels"], "max_words": 40} | task,
        "method": method,
        "target": {"ratio": ratio},
        "output": output,
    }
    torch.set_num_threads(1)
    job = new_record(JobRequest.model_validate(body)).model_copy(update={"attempt": 1})
    storage = Storage((scratch / "artifacts").as_uri())
    settings = Settings(state=scratch, device="cpu")
    return pipeline.run(job, settings=settings, storage=storage, progress=IgnoredProgress(), scratch=scratch)


def check(result: Result) -> None:
    assert result.parameters.slim < result.parameters.dense
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance
    assert result.ratio == pytest.approx(0.3, abs=0.13)  # one layer is a quarter of this model's parameters


@pytest.mark.slow
def test_balanced_rows_and_further_evaluation_sets_are_reported(tmp_path: Path) -> None:
    task = {"calibration": rows("train", 16) | {"draw": "balanced"}, "evaluation": rows("test", 8)}
    task["evaluations"] = {"train": rows("train", 12), "test": rows("test", 12) | {"seed": 1}}
    result = slim(tmp_path, {"units": ["ffn"]}, task)
    check(result)
    assert {name: pair.slim.examples for name, pair in result.metrics.evaluations.items()} == {"train": 12, "test": 12}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_setting_gives_a_smaller_model_that_loads(tmp_path: Path, case: str) -> None:
    few = {"calibration": rows("train", 16), "evaluation": rows("test", 8)}
    check(slim(tmp_path, CASES[case], few))


def test_a_job_without_labels_keeps_the_accuracy_above_the_majority(tmp_path: Path) -> None:
    task = {"supervision": "none", "calibration": rows("train", 64), "evaluation": rows("test", 100)}
    result = slim(tmp_path, {"units": ["ffn", "heads"], "scope": "global", "repair": "least_squares"}, task)
    check(result)
    assert result.metrics.slim.majority is not None
    assert result.metrics.slim.value.value > result.metrics.slim.majority + 0.1
