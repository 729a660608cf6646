"""What was measured once is taken from the store, as long as nothing that it depends on has changed."""

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
from service.contract.job import Stage
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


class Silence:
    """Hears nothing of a job's stages."""

    def stage(self, stage: Stage) -> None: ...

    def advance(self, done: int, total: int, unit: str) -> None: ...


@dataclass
class Desk:
    """A checkpoint, rows and a store, and jobs on them up to where something is measured."""

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

    def reuse(self, request: JobRequest, tenant: str = "default", **digests: str) -> tuple[ScoreCache, TaskModel]:
        """A job that is about to measure, and its model with the task in tokens."""
        job = new_record(request, tenant=tenant)
        scratch = self.root / "scratch" / job.id
        scratch.mkdir(parents=True)
        context = JobContext(
            job, presets.resolve(request.slimmed_for[0]), self.settings, self.storage, Silence(), scratch
        )
        sources = inputs.fetch(context)
        loaded = load_model(context, sources.model, sources.adapter)
        task_model = evaluation_sets.own(evaluation_sets.build(context, loaded, sources.rows[:1])).task_model
        return ScoreCache(context, sources.digests | digests, sources.fingerprints, self.store), task_model

    def path(self, request: JobRequest, **more: Any) -> tuple[ScoreCache, ScorePath]:
        """What a job uses as its unit scores; `measured` counts how often they had to be taken."""
        reuse, task_model = self.reuse(request, **more)
        ratios = schedule(highest_ratio(request.target), request.method.steps)

        def measure() -> ScorePath:
            self.measured += 1
            return attribute(reuse.context, task_model, ratios)

        return reuse, reuse.path(task_model, ratios, measure)

    def digest(self, request: JobRequest, **more: Any) -> str:
        """The name of the unit scores of a request."""
        reuse, task_model = self.reuse(request, **more)
        return reuse.units_key(task_model, schedule(highest_ratio(request.target), request.method.steps)).digest


@pytest.fixture
def desk(tmp_path: Path, settings: Settings, storage: Storage, redis: Redis) -> Desk:
    torch.set_num_threads(1)
    checkpoints.write(tmp_path / "llama", "llama")
    return Desk(tmp_path, settings, storage, ScoreSets(redis, storage))


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


def told(desk: Desk, fields: dict[str, Any]) -> JobRequest:
    """The request with these fields, in which words in capitals stand for files."""
    files = {
        "OTHER": desk.rows(name="other", first="bad"),
        "COPY": desk.rows(name="copy"),
        "ROWS": desk.rows(),
        "TARGETS": targets(desk),
        "MODEL": (desk.root / "llama-copy").as_uri(),
    }
    text = json.dumps(fields)
    for name, uri in files.items():
        text = text.replace(f'"{name}"', f'"{uri}"')
    return desk.request(**json.loads(text))


def targets(desk: Desk) -> str:
    path = desk.root / "targets.jsonl"
    path.write_text("".join(json.dumps({"text": word, "target": word}) + "\n" for word in WORDS * 2))
    return path.as_uri()


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_scores_depend_on_changes_their_digest(desk: Desk, change: str) -> None:
    before, after = (told(desk, fields) for fields in CHANGES[change])
    assert desk.digest(before) != desk.digest(after)
    access = access_of(ANONYMOUS, desk.settings, desk.storage)
    assert fingerprints(before, access).units != fingerprints(after, access).units


@pytest.mark.parametrize("change", SAME)
def test_what_the_scores_do_not_depend_on_leaves_their_digest(desk: Desk, change: str) -> None:
    shutil.copytree(desk.root / "llama", desk.root / "llama-copy")
    assert desk.digest(told(desk, {})) == desk.digest(told(desk, SAME[change]))


def test_the_order_of_the_units_leaves_the_digest(desk: Desk) -> None:
    orders = (["ffn", "heads"], ["heads", "ffn"])
    assert len({desk.digest(desk.request(method={"units": units})) for units in orders}) == 1


def test_any_file_of_the_model_and_the_adapter_change_the_digest(desk: Desk) -> None:
    digests = {desk.digest(desk.request())}
    weights = desk.root / "llama/model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, weights, {"format": "pt"})
    digests.add(desk.digest(desk.request()))
    config = desk.root / "llama/tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    digests.add(desk.digest(desk.request()))
    digests.add(desk.digest(desk.request(), adapter="of an adapter"))
    assert len(digests) == 4
    (desk.root / "llama/README.md").write_text("not part of the model")
    assert desk.digest(desk.request()) in digests


def test_versions_and_devices_change_the_digest(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.digest(desk.request())
    monkeypatch.setattr("worker.stages.score_cache.version", lambda package: f"{package} of another time")
    assert desk.digest(desk.request()) != before


# --- measured once -------------------------------------------------------------------------------------------------


def alike(one: ScorePath, other: ScorePath) -> bool:
    return one.ratios == other.ratios and all(
        torch.equal(mine[site], yours[site])
        for mine, yours in zip(one.scores, other.scores, strict=True)
        for site in mine.keys() | yours.keys()
    )


@pytest.mark.parametrize("method", [{}, STEPS], ids=["one step", "two steps"])
def test_a_second_job_takes_the_scores_of_the_first(desk: Desk, method: dict[str, Any]) -> None:
    first, measured = desk.path(desk.request(method=method))
    again, taken = desk.path(desk.request(method=method))
    assert desk.measured == 1
    assert (first.outcome()["scores_reused"], again.outcome()["scores_reused"]) == (False, True)
    assert first.outcome()["scores"] == again.outcome()["scores"]
    assert alike(measured, taken)
    assert desk.store.get("default", first.outcome()["scores"]).job_id == first.context.job.id


@pytest.mark.parametrize("target", [{"ratio": 0.5}, {"sweep": [0.25, 0.5]}], ids=["ratio", "sweep"])
@pytest.mark.parametrize("method", [{}, STEPS], ids=["one step", "two steps"])
def test_a_repair_is_the_same_whether_the_job_has_scored_its_rows_or_found_the_scores(
    desk: Desk, target: dict[str, Any], method: dict[str, Any]
) -> None:
    mended = []
    for _ in range(2):
        reuse, task_model = desk.reuse(desk.request(method=method, target=target))
        ratios = schedule(highest_ratio(reuse.context.job.request.target), reuse.context.job.request.method.steps)
        path = reuse.path(task_model, ratios, partial(attribute, reuse.context, task_model, ratios))
        candidates = Candidates(reuse.context, task_model, path)
        cut = candidates.cut(candidates.at(0.5)).loaded.model
        mended.append((path.moments is not None, reuse.outcome()["scores_reused"], cut.state_dict()))
    (remembered, _, first), (again, reused, second) = mended
    assert (remembered, again, reused) == (True, False, True)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_tenant_measures_for_itself(desk: Desk) -> None:
    _, measured = desk.path(desk.request(), tenant="search")
    other, taken = desk.path(desk.request(), tenant="ads")
    assert desk.measured == 2
    assert not other.outcome()["scores_reused"]
    assert alike(measured, taken)


@pytest.mark.parametrize("loss", ["damaged", "deleted"])
def test_damaged_or_deleted_scores_are_measured_again(desk: Desk, loss: str) -> None:
    first, measured = desk.path(desk.request())
    [digest] = first.paths
    stored = desk.store.get("default", digest)
    if loss == "damaged":
        desk.storage.put_bytes(b"x" * stored.size, score_key("default", digest, stored.sha256))
    else:
        desk.store.delete("default", digest)
    second, again = desk.path(desk.request())
    third, _ = desk.path(desk.request())
    assert desk.measured == 2
    assert (second.outcome()["scores_reused"], third.outcome()["scores_reused"]) == (False, True)
    assert alike(measured, again)


def test_the_dense_model_answers_the_same_rows_once(desk: Desk) -> None:
    first, task_model = desk.reuse(desk.request())
    measured = first.evaluate(task_model)
    again, task_model = desk.reuse(desk.request(target={"ratio": 0.6}, method={"criterion": "wanda"}))
    taken = again.evaluate(task_model)
    assert (first.outcome()["evaluation_reused"], again.outcome()["evaluation_reused"]) == (False, True)
    assert (taken.metrics, taken.answers, taken.parameters) == (measured.metrics, measured.answers, measured.parameters)
    assert torch.equal(taken.scores.log_probability_EL, measured.scores.log_probability_EL)
    assert torch.equal(taken.scores.answer_E, measured.scores.answer_E)


def test_only_what_is_not_stored_is_evaluated(desk: Desk) -> None:
    first, task_model = desk.reuse(desk.request())
    first.evaluate(task_model)
    second, task_model = desk.reuse(desk.request())
    _, other = desk.reuse(desk.request(task={"evaluation": {"uri": desk.rows(name="other", first="bad")}}))
    found = second.evaluate_all({"stored": task_model, "other": other})
    assert list(second.evaluations.values()) == [True, False]
    assert not second.outcome()["evaluation_reused"]
    assert {key: len(measured.answers) for key, measured in found.items()} == {"stored": 4, "other": 16}


def test_the_dense_model_is_asked_once_for_its_own_answers(desk: Desk) -> None:
    request = desk.request(task={"supervision": "none"})
    answers = []
    for _ in range(2):
        reuse, task_model = desk.reuse(request)
        unanswered = replace(task_model, calibration=replace(task_model.calibration, answered=False))
        unlabelled = EvaluationSet(Role.task, "reviews", [], unanswered)
        [labelled] = pseudo_labels.label(reuse.context, [unlabelled], reuse.evaluate)
        answers.append([example.answer for example in labelled.task_model.calibration.examples])
    assert answers[0] == answers[1]
    assert list(reuse.evaluations.values()) == [True]


def test_without_a_store_everything_is_measured(desk: Desk) -> None:
    reuse, task_model = desk.reuse(desk.request())
    reuse.store = None
    path = reuse.path(task_model, (0.0,), lambda: attribute(reuse.context, task_model, (0.0,)))
    assert path.ratios == (0.0,)
    assert reuse.outcome() == {"scores": None, "task_scores": {}, "scores_reused": False, "evaluation_reused": False}
    assert desk.store.page("default") == ([], None)


def test_a_plan_of_inline_rows_knows_the_job_that_stored_them(desk: Desk) -> None:
    rows = [{"text": word, "label": index % 2} for index, word in enumerate(WORDS)]
    inline = desk.request(task={"calibration": {"rows": rows}})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    desk.storage.put_bytes(lines.encode(), dataset_key("default", "kept"))
    kept = desk.request(task={"calibration": {"uri": "dataset://kept"}})
    access = access_of(ANONYMOUS, desk.settings, desk.storage)
    assert fingerprints(inline, access).units == fingerprints(kept, access).units
    assert not desk.store.serves("default", fingerprints(inline, access).units)
    reuse, _ = desk.path(kept)
    assert desk.store.serves("default", fingerprints(inline, access).units)
    [digest] = reuse.paths
    desk.store.delete("default", digest)
    assert not desk.store.serves("default", fingerprints(inline, access).units)


def test_a_plan_of_a_union_needs_the_scores_of_every_task(desk: Desk) -> None:
    labelled = {"template": "{text}:", "labels": LABELS}
    tasks = [
        labelled | {"name": name, "calibration": {"uri": desk.rows(name=name, first=first)}}
        for name, first in (("reviews", "good"), ("mails", "bad"))
    ]
    request = desk.request(task=None)
    union = JobRequest.model_validate(request.model_dump(exclude_unset=True, exclude={"task"}) | {"tasks": tasks})
    reuse, task_model = desk.reuse(union)
    other = JobRequest.model_validate(request.model_dump(exclude_unset=True) | {"task": tasks[1]})
    _, partner = desk.reuse(other)
    units = fingerprints(union, access_of(ANONYMOUS, desk.settings, desk.storage)).units
    for each in (task_model, partner):
        assert not desk.store.serves("default", units)
        reuse.path(each, (0.0,), partial(attribute, reuse.context, each, (0.0,)))
    assert desk.store.serves("default", units)
    named = reuse.outcome()["task_scores"]
    assert list(named) == ["reviews", "mails"]
    assert list(named.values()) == list(reuse.paths)
    desk.store.delete("default", named["reviews"])
    assert not desk.store.serves("default", units)


def test_a_plan_knows_whether_the_dense_model_was_asked(desk: Desk) -> None:
    other_rows = desk.request(task={"evaluation": {"uri": desk.rows(name="other", first="bad")}})
    observing = desk.request(observe=[{"preset": "sst2", "evaluation": {"uri": desk.rows(name="other")}}])
    smaller, request = desk.request(target={"ratio": 0.5}), desk.request()
    access = access_of(ANONYMOUS, desk.settings, desk.storage)
    reuse, task_model = desk.reuse(request)
    reuse.evaluate(task_model)
    reuse.path(task_model, (0.0,), partial(attribute, reuse.context, task_model, (0.0,)))
    assert desk.store.serves("default", fingerprints(smaller, access).rows)
    assert not desk.store.serves("default", fingerprints(other_rows, access).rows)
    assert not desk.store.serves("default", fingerprints(observing, access).rows)


# --- a model that a job has left ----------------------------------------------------------------------------------


def test_a_model_whose_job_was_deleted_while_the_next_one_waited_fails_it_with_its_code(desk: Desk) -> None:
    with pytest.raises(InvalidModel, match="names no job of yours") as caught:
        desk.reuse(desk.request(model={"uri": f"job://{ULID()}"}))
    assert caught.value.param == "model.uri"


def test_what_a_job_has_left_is_the_model_that_it_left(desk: Desk) -> None:
    whole = desk.digest(desk.request())
    parent = leave(desk, lineage=[ANCESTOR])
    reuse, task_model = desk.reuse(desk.request(model={"uri": f"job://{parent}"}))
    assert reuse.units_key(task_model, (0.0,)).digest == whole
    sources = inputs.fetch(reuse.context)
    assert [entry.job_id for entry in sources.lineage] == [ANCESTOR["job_id"], parent]
    assert (sources.lineage[1].revision, sources.lineage[1].adapter_uri) == ("v1.2", "s3://models/lora")
    assert sources.lineage[1].model == "s3://models/large"
    assert sources.lineage[1].parameters.slim == SUCCEEDED["result"]["parameters"]["slim"]


def test_a_point_of_a_sweep_has_its_own_figures(desk: Desk) -> None:
    point = {"ratio": 0.1, "parameters": 90, "bytes": 900, "artifact": "model-0.1"}
    parent = leave(desk, result=SUCCEEDED["result"] | {"curve": [point]})
    left = job_model(f"job://{parent}", desk.storage, "default")
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


def leave(desk: Desk, **report: Any) -> str:
    """A job that has left the checkpoint of the desk; its id."""
    job_id, files = str(ULID()), []
    source = {"uri": "s3://models/large", "revision": "v1.2", "adapter_uri": "s3://models/lora"}
    told = REPORT | {"request": REPORT["request"] | {"model": source}} | report
    contents = {f"model/{path.name}": path.read_bytes() for path in (desk.root / "llama").iterdir()}
    for name, content in (contents | {"report.json": json.dumps(told).encode()}).items():
        desk.storage.put_bytes(content, attempt_prefix("default", job_id, 1) + name)
        files.append(StoredFile(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest()))
    manifest = Manifest(job_id=job_id, attempt=1, files=files)
    desk.storage.put_bytes(manifest.model_dump_json().encode(), manifest_key("default", job_id))
    return job_id


# --- the files -----------------------------------------------------------------------------------------------------


def test_unit_scores_are_read_without_taskslim() -> None:
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


def test_answers_and_figures_come_back_as_they_were() -> None:
    scores = AnswerScores(torch.tensor([[0.1, -2.0]], dtype=torch.float64), torch.tensor([1]))
    measured = Measured(Metrics(examples=1, repetition=0.1), ["naïve\n"], 7, scores)
    back = unpack_measured(pack_measured(measured, {}))
    assert (back.metrics, back.answers, back.parameters) == (measured.metrics, measured.answers, measured.parameters)
    assert torch.equal(back.scores.log_probability_EL, scores.log_probability_EL)
