"""Digests of unit scores: they change with what the scores depend on, and with nothing else."""

import json
import shutil
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from service.contract.request.job_request import JobRequest
from service.contract.request.method import Method
from service.contract.request.recovery import Recovery
from service.jobs.submission import access_of
from service.sources.fingerprints import fingerprints
from service.tenants.api_keys import ANONYMOUS
from tests.support.pipeline_jobs import LABELS, WORDS
from tests.support.scoring_jobs import STEPS, ScoringJobs

REDUCED: dict[str, Any] = {"criterion": "attribution"}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "template": ({}, {"task": {"template": "{text}!"}}),
    "label word": ({}, {"task": {"labels": LABELS | {"1": "fox"}}}),
    "label name": ({}, {"task": {"labels": {"0": "negative", "1": "positive", "2": "dog"}}}),
    "words": ({}, {"task": {"max_words": 1}}),
    "label prefix": ({}, {"task": {"label_prefix": ""}}),
    "special tokens": ({}, {"task": {"special_tokens": False}}),
    "kind": ({}, {"task": {"kind": "generation", "labels": None, "calibration": {"uri": "TARGETS"}}}),
    "rows": ({}, {"task": {"calibration": {"uri": "OTHER"}}}),
    "limit": ({}, {"task": {"calibration": {"uri": "ROWS", "limit": 12}}}),
    "seed of the draw": (
        {"task": {"calibration": {"uri": "ROWS", "limit": 12}}},
        {"task": {"calibration": {"uri": "ROWS", "limit": 12, "seed": 1}}},
    ),
    "balance of the draw": (
        {"task": {"calibration": {"uri": "ROWS", "limit": 8}}},
        {"task": {"calibration": {"uri": "ROWS", "limit": 8, "draw": "balanced"}}},
    ),
    "split": ({}, {"task": {"evaluation": {"uri": "OTHER"}}}),
    "criterion": ({}, {"method": {"criterion": "wanda"}}),
    "units": ({}, {"method": {"units": ["ffn", "heads"]}}),
    "objective": ({}, {"method": {"objective": "probability"}}),
    "tokens": ({"method": REDUCED}, {"method": REDUCED | {"token_reduction": "mean"}}),
    "sign": ({"method": REDUCED}, {"method": REDUCED | {"sign": "absolute"}}),
    "examples": ({"method": REDUCED}, {"method": REDUCED | {"example_reduction": "sum"}}),
    "seed": ({"method": {"criterion": "random"}}, {"method": {"criterion": "random", "seed": 1}}),
    "steps": ({}, {"method": {"steps": 2}}),
    "ratio of a path": ({"method": STEPS}, {"method": STEPS, "target": {"ratio": 0.4}}),
    "scope of a path": ({"method": STEPS}, {"method": STEPS | {"scope": "layer"}}),
    "normalisation of a path": ({"method": STEPS}, {"method": STEPS | {"normalisation": "mean"}}),
    "first layers of a path": ({"method": STEPS}, {"method": STEPS | {"protect_first": 1}}),
    "rounding of a path": ({"method": STEPS}, {"method": STEPS, "output": {"round_to": 16}}),
    "layout of a path": ({"method": STEPS}, {"method": STEPS, "output": {"round_to": 8, "layout": "per_layer"}}),
}
UNREPAIRED = {"repair": "none", "criterion": "surgeon"}  # the criterion of a repair by name
SAME: dict[str, dict[str, Any]] = {
    "ratio": {"target": {"ratio": 0.5}},
    "rounding": {"output": {"round_to": 16}},
    "formats": {"method": UNREPAIRED, "output": {"round_to": 8, "formats": ["indices"]}},
    "layout": {"method": {"scope": "global"}, "output": {"round_to": 8, "layout": "per_layer"}},
    "normalisation": {"method": {"normalisation": "mean"}},
    "seed of the controls": {"method": {"controls": True, "seed": 1}},
    "protected layers": {"method": {"protect_last": 1}},
    "recovery": {"method": {"seed": 1}, "recovery": {"method": "distillation", "rank": 4}},
    "repair": {"method": UNREPAIRED},
    "the default objective by name": {"method": {"objective": "margin"}},
    "name": {"task": {"name": "reviews"}},
    "metric": {"task": {"metric": "matthews"}},
    "file of the rows": {"task": {"calibration": {"uri": "COPY"}}},
    "label prefix of the family by name": {"task": {"label_prefix": " "}},
    "tags, priority and deadline": {"tags": {"a": "b"}, "priority": "high", "deadline_seconds": 99},
    "copy of the model": {"model": {"uri": "MODEL"}},
}


def request_with(jobs: ScoringJobs, fields: dict[str, Any]) -> JobRequest:
    """A request with these fields, in which words in capitals stand for the URIs of files."""
    files = {
        "OTHER": jobs.rows(name="other", first="bad"),
        "COPY": jobs.rows(name="copy"),
        "ROWS": jobs.rows(),
        "TARGETS": targets(jobs),
        "MODEL": (jobs.root / "llama-copy").as_uri(),
    }
    text = json.dumps(fields)
    for name, uri in files.items():
        text = text.replace(f'"{name}"', f'"{uri}"')
    return jobs.request(**json.loads(text))


def targets(jobs: ScoringJobs) -> str:
    path = jobs.root / "targets.jsonl"
    path.write_text("".join(json.dumps({"text": word, "target": word}) + "\n" for word in WORDS * 2))
    return path.as_uri()


@pytest.mark.parametrize("change", CHANGES)
def test_digest_changes_with_every_value_that_scores_depend_on(jobs: ScoringJobs, change: str) -> None:
    before, after = (request_with(jobs, fields) for fields in CHANGES[change])
    assert jobs.digest(before) != jobs.digest(after)
    access = access_of(ANONYMOUS, jobs.settings, jobs.storage)
    assert fingerprints(before, access).units != fingerprints(after, access).units


@pytest.mark.parametrize("change", SAME)
def test_digest_ignores_values_that_scores_do_not_depend_on(jobs: ScoringJobs, change: str) -> None:
    shutil.copytree(jobs.root / "llama", jobs.root / "llama-copy")
    assert jobs.digest(request_with(jobs, {})) == jobs.digest(request_with(jobs, SAME[change]))


def test_fingerprints_do_not_depend_on_the_recovery(jobs: ScoringJobs) -> None:
    access = access_of(ANONYMOUS, jobs.settings, jobs.storage)
    plain = jobs.request()
    recovered = plain.model_copy(update={"method": Method(seed=1), "recovery": Recovery(rank=4)})
    assert fingerprints(plain, access) == fingerprints(recovered, access)


def test_digest_ignores_the_order_of_the_units(jobs: ScoringJobs) -> None:
    orders = (["ffn", "heads"], ["heads", "ffn"])
    assert len({jobs.digest(jobs.request(method={"units": units})) for units in orders}) == 1


def test_digest_changes_with_the_files_of_model_and_adapter(jobs: ScoringJobs) -> None:
    digests = {jobs.digest(jobs.request())}
    weights = jobs.root / "llama/model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, weights, {"format": "pt"})
    digests.add(jobs.digest(jobs.request()))
    config = jobs.root / "llama/tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    digests.add(jobs.digest(jobs.request()))
    digests.add(jobs.digest(jobs.request(), adapter="of an adapter"))
    assert len(digests) == 4
    (jobs.root / "llama/README.md").write_text("not part of the model")
    assert jobs.digest(jobs.request()) in digests


def test_digest_changes_with_the_versions_of_packages(jobs: ScoringJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    before = jobs.digest(jobs.request())
    monkeypatch.setattr("worker.data.provenance._version", lambda package: f"{package} of another time")
    assert jobs.digest(jobs.request()) != before
