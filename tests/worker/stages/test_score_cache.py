"""The score cache: digests, reuse of stored measurements, plans that find them, and their files."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis
from safetensors.torch import load, load_file, save_file
from ulid import ULID

from service.api.openapi.examples import SUCCEEDED
from service.api.openapi.response_examples import REPORT
from service.contract import presets
from service.contract.errors import InvalidModel
from service.contract.request import JobRequest
from service.contract.resources import Manifest, StoredFile
from service.contract.result import Metrics
from service.jobs.record import new_record
from service.jobs.submission import access_of
from service.settings import Settings
from service.sources.fingerprints import fingerprints
from service.sources.job_checkpoints import job_model
from service.storage.keys import attempt_prefix, dataset_key, manifest_key, score_key
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from service.tenants.api_keys import ANONYMOUS
from tests.support import checkpoints
from tests.support.progress import IgnoredProgress
from worker.evaluation.metrics import AnswerScores
from worker.search.candidates import Candidates
from worker.slimming.scoring.iterative import ScorePath, schedule
from worker.slimming.units import Site
from worker.stages import evaluation_sets, inputs, pseudo_labels
from worker.stages.attribution import attribute, highest_ratio
from worker.stages.context import JobContext
from worker.stages.evaluation_sets import EvaluationSet, Role
from worker.stages.lineage import lineage
from worker.stages.score_cache import ScoreCache
from worker.stages.score_files import pack_measured, pack_path, unpack_measured, unpack_path
from worker.stages.task_model import Measured, TaskModel
from worker.stages.task_model import load as load_model

LABELS = {"1": "positive", "0": "negative"}
WORDS = ("good", "bad", "film", "plot", "dog", "fox", "lazy", "quick")


@dataclass
class ScoringJobs:
    """A checkpoint, rows and a store of scores, with jobs that use them up to their first measurement."""

    root: Path
    settings: Settings
    storage: Storage
    store: ScoreSets
    measured: int = field(default=0, init=False)

    def rows(self, count: int = 16, name: str = "rows", first: str = "good") -> str:
        """The URI of a file of rows."""
        lines = [{"text": f"{WORDS[row % 7]} {WORDS[row % 5]}", "label": row % 2} for row in range(count)]
        lines[0]["text"] = first
        path = self.root / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path.as_uri()

    def request(self, task: dict[str, Any] | None = None, **fields: Any) -> JobRequest:
        asked = {"template": "{text}:", "labels": LABELS, "calibration": {"uri": self.rows()}} | (task or {})
        fixed = {"model": {"uri": (self.root / "llama").as_uri()}, "target": {"ratio": 0.3}, "output": {"round_to": 8}}
        return JobRequest.model_validate(fixed | {"task": asked} | fields)

    def cache(self, request: JobRequest, tenant: str = "default", **digests: str) -> tuple[ScoreCache, TaskModel]:
        """The score cache of a new job, and its model with the task in tokens."""
        job = new_record(request, tenant=tenant)
        scratch = self.root / "scratch" / job.id
        scratch.mkdir(parents=True)
        context = JobContext(
            job, presets.resolve(request.slimmed_for[0]), self.settings, self.storage, IgnoredProgress(), scratch
        )
        sources = inputs.fetch(context)
        loaded = load_model(context, sources.model, sources.adapter)
        task_model = evaluation_sets.own(evaluation_sets.build(context, loaded, sources.rows[:1])).task_model
        return ScoreCache(context, sources.digests | digests, sources.fingerprints, self.store), task_model

    def path(self, request: JobRequest, **more: Any) -> tuple[ScoreCache, ScorePath]:
        """The unit scores of a job; `measured` counts how often they were not found in the store."""
        cache, task_model = self.cache(request, **more)
        ratios = schedule(highest_ratio(request.target), request.method.steps)

        def measure() -> ScorePath:
            self.measured += 1
            return attribute(cache.context, task_model, ratios)

        return cache, cache.path(task_model, ratios, measure)

    def digest(self, request: JobRequest, **more: Any) -> str:
        """The digest of the unit scores of a request."""
        cache, task_model = self.cache(request, **more)
        return cache.units_key(task_model, schedule(highest_ratio(request.target), request.method.steps)).digest


@pytest.fixture
def jobs(tmp_path: Path, settings: Settings, storage: Storage, redis: Redis) -> ScoringJobs:
    torch.set_num_threads(1)
    checkpoints.write(tmp_path / "llama", "llama")
    return ScoringJobs(tmp_path, settings, storage, ScoreSets(redis, storage))


# --- the digest ----------------------------------------------------------------------------------------------------

STEPS: dict[str, Any] = {"steps": 2, "scope": "global"}
REDUCED: dict[str, Any] = {"criterion": "attribution"}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "template": ({}, {"task": {"template": "{text}!"}}),
    "label word": ({}, {"task": {"labels": LABELS | {"1": "fox"}}}),
    "label name": ({}, {"task": {"labels": {"0": "negative", "1": "positive", "2": "dog"}}}),
    "words": ({}, {"task": {"max_words": 1}}),
    "label prefix": ({}, {"task": {"label_prefix": ""}}),
    "special tokens": ({}, {"task": {"special_tokens": True}}),
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
    "repair": {"method": UNREPAIRED},
    "the default objective by name": {"method": {"objective": "margin"}},
    "name": {"task": {"name": "reviews"}},
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
    monkeypatch.setattr("worker.stages.score_cache.version", lambda package: f"{package} of another time")
    assert jobs.digest(jobs.request()) != before


# --- measured once -------------------------------------------------------------------------------------------------


def alike(one: ScorePath, other: ScorePath) -> bool:
    return one.ratios == other.ratios and all(
        torch.equal(mine[site], yours[site])
        for mine, yours in zip(one.scores, other.scores, strict=True)
        for site in mine.keys() | yours.keys()
    )


@pytest.mark.parametrize("method", [{}, STEPS], ids=["one step", "two steps"])
def test_second_job_reuses_the_scores_of_the_first(jobs: ScoringJobs, method: dict[str, Any]) -> None:
    first, measured = jobs.path(jobs.request(method=method))
    again, taken = jobs.path(jobs.request(method=method))
    assert jobs.measured == 1
    assert (first.outcome()["scores_reused"], again.outcome()["scores_reused"]) == (False, True)
    assert first.outcome()["scores"] == again.outcome()["scores"]
    assert alike(measured, taken)
    assert jobs.store.get("default", first.outcome()["scores"]).job_id == first.context.job.id


@pytest.mark.parametrize("target", [{"ratio": 0.5}, {"sweep": [0.25, 0.5]}], ids=["ratio", "sweep"])
@pytest.mark.parametrize("method", [{}, STEPS], ids=["one step", "two steps"])
def test_repair_is_the_same_with_measured_and_with_reused_scores(
    jobs: ScoringJobs, target: dict[str, Any], method: dict[str, Any]
) -> None:
    repaired = []
    for _ in range(2):
        cache, task_model = jobs.cache(jobs.request(method=method, target=target))
        ratios = schedule(highest_ratio(cache.context.job.request.target), cache.context.job.request.method.steps)
        path = cache.path(task_model, ratios, partial(attribute, cache.context, task_model, ratios))
        candidates = Candidates(cache.context, task_model, path)
        cut = candidates.slim_copy(candidates.at(0.5)).loaded.model
        repaired.append((path.moments is not None, cache.outcome()["scores_reused"], cut.state_dict()))
    (remembered, _, first), (again, reused, second) = repaired
    assert (remembered, again, reused) == (True, False, True)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tenants_do_not_share_scores(jobs: ScoringJobs) -> None:
    _, measured = jobs.path(jobs.request(), tenant="search")
    other, taken = jobs.path(jobs.request(), tenant="ads")
    assert jobs.measured == 2
    assert not other.outcome()["scores_reused"]
    assert alike(measured, taken)


@pytest.mark.parametrize("loss", ["damaged", "deleted"])
def test_damaged_or_deleted_scores_are_measured_again(jobs: ScoringJobs, loss: str) -> None:
    first, measured = jobs.path(jobs.request())
    [digest] = first.paths
    stored = jobs.store.get("default", digest)
    if loss == "damaged":
        jobs.storage.put_bytes(b"x" * stored.size, score_key("default", digest, stored.sha256))
    else:
        jobs.store.delete("default", digest)
    second, again = jobs.path(jobs.request())
    third, _ = jobs.path(jobs.request())
    assert jobs.measured == 2
    assert (second.outcome()["scores_reused"], third.outcome()["scores_reused"]) == (False, True)
    assert alike(measured, again)


def test_dense_evaluation_is_reused(jobs: ScoringJobs) -> None:
    first, task_model = jobs.cache(jobs.request())
    measured = first.evaluate(task_model)
    again, task_model = jobs.cache(jobs.request(target={"ratio": 0.6}, method={"criterion": "wanda"}))
    taken = again.evaluate(task_model)
    assert (first.outcome()["evaluation_reused"], again.outcome()["evaluation_reused"]) == (False, True)
    assert (taken.metrics, taken.answers, taken.parameters) == (measured.metrics, measured.answers, measured.parameters)
    assert torch.equal(taken.scores.log_probability_EL, measured.scores.log_probability_EL)
    assert torch.equal(taken.scores.answer_E, measured.scores.answer_E)


def test_only_missing_evaluations_are_measured(jobs: ScoringJobs) -> None:
    first, task_model = jobs.cache(jobs.request())
    first.evaluate(task_model)
    second, task_model = jobs.cache(jobs.request())
    _, other = jobs.cache(jobs.request(task={"evaluation": {"uri": jobs.rows(name="other", first="bad")}}))
    found = second.evaluate_all({"stored": task_model, "other": other})
    assert list(second.evaluations.values()) == [True, False]
    assert not second.outcome()["evaluation_reused"]
    assert {key: len(measured.answers) for key, measured in found.items()} == {"stored": 4, "other": 16}


def test_answers_for_pseudo_labels_are_reused(jobs: ScoringJobs) -> None:
    request = jobs.request(task={"supervision": "none"})
    answers = []
    for _ in range(2):
        cache, task_model = jobs.cache(request)
        unanswered = replace(task_model, calibration=replace(task_model.calibration, answered=False))
        unlabelled = EvaluationSet(Role.task, "reviews", [], unanswered)
        [labelled] = pseudo_labels.label(cache.context, [unlabelled], cache.evaluate)
        answers.append([example.answer for example in labelled.task_model.calibration.examples])
    assert answers[0] == answers[1]
    assert list(cache.evaluations.values()) == [True]


def test_cache_without_a_store_measures_everything(jobs: ScoringJobs) -> None:
    cache, task_model = jobs.cache(jobs.request())
    cache.store = None
    path = cache.path(task_model, (0.0,), lambda: attribute(cache.context, task_model, (0.0,)))
    assert path.ratios == (0.0,)
    assert cache.outcome() == {"scores": None, "task_scores": {}, "scores_reused": False, "evaluation_reused": False}
    assert jobs.store.page("default") == ([], None)


def test_plan_of_inline_rows_finds_the_scores_of_a_job(jobs: ScoringJobs) -> None:
    rows = [{"text": word, "label": index % 2} for index, word in enumerate(WORDS)]
    inline = jobs.request(task={"calibration": {"rows": rows}})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    jobs.storage.put_bytes(lines.encode(), dataset_key("default", "kept"))
    kept = jobs.request(task={"calibration": {"uri": "dataset://kept"}})
    access = access_of(ANONYMOUS, jobs.settings, jobs.storage)
    assert fingerprints(inline, access).units == fingerprints(kept, access).units
    assert not jobs.store.serves("default", fingerprints(inline, access).units)
    cache, _ = jobs.path(kept)
    assert jobs.store.serves("default", fingerprints(inline, access).units)
    [digest] = cache.paths
    jobs.store.delete("default", digest)
    assert not jobs.store.serves("default", fingerprints(inline, access).units)


def test_plan_of_a_union_needs_the_scores_of_every_task(jobs: ScoringJobs) -> None:
    labelled = {"template": "{text}:", "labels": LABELS}
    tasks = [
        labelled | {"name": name, "calibration": {"uri": jobs.rows(name=name, first=first)}}
        for name, first in (("reviews", "good"), ("mails", "bad"))
    ]
    request = jobs.request(task=None)
    union = JobRequest.model_validate(request.model_dump(exclude_unset=True, exclude={"task"}) | {"tasks": tasks})
    cache, task_model = jobs.cache(union)
    other = JobRequest.model_validate(request.model_dump(exclude_unset=True) | {"task": tasks[1]})
    _, partner = jobs.cache(other)
    units = fingerprints(union, access_of(ANONYMOUS, jobs.settings, jobs.storage)).units
    for each in (task_model, partner):
        assert not jobs.store.serves("default", units)
        cache.path(each, (0.0,), partial(attribute, cache.context, each, (0.0,)))
    assert jobs.store.serves("default", units)
    named = cache.outcome()["task_scores"]
    assert list(named) == ["reviews", "mails"]
    assert list(named.values()) == list(cache.paths)
    jobs.store.delete("default", named["reviews"])
    assert not jobs.store.serves("default", units)


def test_plan_finds_the_dense_evaluation_of_a_job(jobs: ScoringJobs) -> None:
    other_rows = jobs.request(task={"evaluation": {"uri": jobs.rows(name="other", first="bad")}})
    observing = jobs.request(observe=[{"preset": "sst2", "evaluation": {"uri": jobs.rows(name="other")}}])
    smaller, request = jobs.request(target={"ratio": 0.5}), jobs.request()
    access = access_of(ANONYMOUS, jobs.settings, jobs.storage)
    cache, task_model = jobs.cache(request)
    cache.evaluate(task_model)
    cache.path(task_model, (0.0,), partial(attribute, cache.context, task_model, (0.0,)))
    assert jobs.store.serves("default", fingerprints(smaller, access).rows)
    assert not jobs.store.serves("default", fingerprints(other_rows, access).rows)
    assert not jobs.store.serves("default", fingerprints(observing, access).rows)


# --- a model that a job has left ----------------------------------------------------------------------------------


def test_model_of_a_deleted_job_is_refused(jobs: ScoringJobs) -> None:
    with pytest.raises(InvalidModel, match="names no job of this tenant") as caught:
        jobs.cache(jobs.request(model={"uri": f"job://{ULID()}"}))
    assert caught.value.param == "model.uri"


def test_model_of_a_job_is_its_checkpoint(jobs: ScoringJobs) -> None:
    whole = jobs.digest(jobs.request())
    parent = leave(jobs, lineage=[ANCESTOR])
    cache, task_model = jobs.cache(jobs.request(model={"uri": f"job://{parent}"}))
    assert cache.units_key(task_model, (0.0,)).digest == whole
    sources = inputs.fetch(cache.context)
    assert [entry.job_id for entry in sources.lineage] == [ANCESTOR["job_id"], parent]
    assert (sources.lineage[1].revision, sources.lineage[1].adapter_uri) == ("v1.2", "s3://models/lora")
    assert sources.lineage[1].model == "s3://models/large"
    assert sources.lineage[1].parameters.slim == SUCCEEDED["result"]["parameters"]["slim"]


def test_lineage_has_the_figures_of_a_point_of_a_sweep(jobs: ScoringJobs) -> None:
    point = {"ratio": 0.1, "parameters": 90, "bytes": 900, "artifact": "model-0.1"}
    parent = leave(jobs, result=SUCCEEDED["result"] | {"curve": [point]})
    left = job_model(f"job://{parent}", jobs.storage, "default")
    [entry] = lineage(replace(left, directory="model-0.1"))
    assert (entry.ratio, entry.parameters.slim, entry.widths) == (0.1, 90, [])
    assert lineage(left)[0].ratio == SUCCEEDED["result"]["ratio"]


ANCESTOR: dict[str, Any] = {
    "job_id": "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
    "model": "hf://owner/name",
    "ratio": 0.2,
    "parameters": {"dense": 100, "slim": 80},
    "widths": [],
}


def leave(jobs: ScoringJobs, **report: Any) -> str:
    """Store the checkpoint as the model of a finished job, and return the id of the job."""
    job_id, files = str(ULID()), []
    source = {"uri": "s3://models/large", "revision": "v1.2", "adapter_uri": "s3://models/lora"}
    request_with = REPORT | {"request": REPORT["request"] | {"model": source}} | report
    contents = {f"model/{path.name}": path.read_bytes() for path in (jobs.root / "llama").iterdir()}
    for name, content in (contents | {"report.json": json.dumps(request_with).encode()}).items():
        jobs.storage.put_bytes(content, attempt_prefix("default", job_id, 1) + name)
        files.append(StoredFile(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest()))
    manifest = Manifest(job_id=job_id, attempt=1, files=files)
    jobs.storage.put_bytes(manifest.model_dump_json().encode(), manifest_key("default", job_id))
    return job_id


# --- the files -----------------------------------------------------------------------------------------------------


def test_file_of_unit_scores_is_plain_safetensors() -> None:
    site = Site("decoder", 3, "ffn")
    later = torch.tensor([2.0, -torch.inf])
    content = pack_path(ScorePath((0.0, 0.2), ({site: torch.tensor([1.0, 0.5])}, {site: later})), {"task": {"a": "é"}})
    tensors = load(content)
    assert sorted(tensors) == ["0.decoder.3.ffn", "1.decoder.3.ffn"]
    assert torch.equal(tensors["1.decoder.3.ffn"], later)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == "taskslim-scores-1"
    assert json.loads(header["__metadata__"]["ratios"]) == [0.0, 0.2]
    assert json.loads(header["__metadata__"]["task"]) == {"a": "é"}
    assert alike(unpack_path(content), ScorePath((0.0, 0.2), ({site: torch.tensor([1.0, 0.5])}, {site: later})))


def test_packed_answers_are_unpacked_unchanged() -> None:
    scores = AnswerScores(torch.tensor([[0.1, -2.0]], dtype=torch.float64), torch.tensor([1]))
    measured = Measured(Metrics(examples=1, repetition=0.1), ["naïve\n"], 7, scores)
    back = unpack_measured(pack_measured(measured, {}))
    assert (back.metrics, back.answers, back.parameters) == (measured.metrics, measured.answers, measured.parameters)
    assert torch.equal(back.scores.log_probability_EL, scores.log_probability_EL)
