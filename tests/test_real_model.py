"""Jobs and scores on SmolLM2-135M, a trained model, which show what tiny random models cannot."""

from pathlib import Path

import pytest
import torch

from service.cli.demo.request import LABELS, TEMPLATE, find_model, read_rows
from service.contract.answers.report import Report
from service.contract.answers.result import Result
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import resolve
from service.contract.request.task import DataSource, Task
from service.jobs.record import new_record
from service.rows.row import Row
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support.progress import IgnoredProgress
from worker import pipeline
from worker.checkpoints.loading import LoadedModel, count_parameters, load_model
from worker.data.batching import batches, padding
from worker.data.prompts import encode
from worker.data.wordings import wording
from worker.evaluation.answer_scores import score as score_answers
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.masking import masked
from worker.slimming.scoring import attribution
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.objectives import Batch
from worker.slimming.selection import select
from worker.slimming.units.groups import Scores
from worker.slimming.units.locating import locate
from worker.sources.gguf import convert_gguf

SHARED = Path(__file__).parents[2] / "shared"
ADAPTER = SHARED / "models/smollm2-135m-multitask-lora"
LLAMA = ARCHITECTURES["llama"]
ROWS = 24

needs_shared = pytest.mark.skipif(not ADAPTER.exists(), reason="the trained adapter and its rows are not here")


@pytest.fixture(scope="module")
def state(request: pytest.FixtureRequest) -> Path:
    """A state directory that is kept after the test run, so that the GGUF file is converted once."""
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("real-model")


@pytest.fixture(scope="module")
def checkpoint(state: Path) -> Path:
    [gguf] = find_model().glob("*.gguf")
    return convert_gguf(gguf, state / "cache" / "gguf")


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> LoadedModel:
    return load_model(checkpoint, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def review_batches(loaded: LoadedModel) -> list[Batch]:
    """The shortest of the demo's reviews, the first half of them positive."""
    raw = {"template": TEMPLATE, "labels": LABELS, "calibration": {"uri": "file:///rows.jsonl"}}
    asked = wording("causal", resolve(Task.model_validate(raw)), loaded.tokenizer, loaded.model.config)
    rows = sorted(read_rows("sentiment", "calibration"), key=lambda row: len(str(row["text"])))
    chosen = [row for label in LABELS for row in [row for row in rows if row["label"] == label][: ROWS // len(LABELS)]]
    examples, _ = encode([Row(dict(row), line) for line, row in enumerate(chosen)], asked)
    return batches(examples, padding(loaded.model, loaded.tokenizer, "causal"), 1024)


@pytest.mark.slow
def test_the_converted_model_completes_a_sentence(loaded: LoadedModel) -> None:
    assert count_parameters(loaded.model) == 134_515_008
    assert loaded.dtype is torch.bfloat16
    prompt = loaded.tokenizer("The capital of France is", return_tensors="pt")
    text = loaded.tokenizer.decode(loaded.model.generate(**prompt, max_new_tokens=3, do_sample=False)[0])  # type: ignore[operator]
    assert "Paris" in text


@pytest.mark.slow
def test_removing_the_lowest_scores_costs_less_than_removing_the_highest(
    loaded: LoadedModel, review_batches: list[Batch]
) -> None:
    scores = attribution.score(loaded.model, LLAMA, ["ffn"], review_batches, "attribution", Options()).scores
    groups = locate(loaded.model, LLAMA, ["ffn"])

    def likelihood(ranking: Scores) -> float:
        """The mean log-probability of the right answers without the lowest-ranked tenth of the units."""
        with masked(loaded.model, LLAMA, select(ranking, groups, ratio=0.1, round_to=1)):
            found = score_answers(loaded.model, review_batches, lambda done: None)
        return found.score_EL.gather(1, found.answer_E.unsqueeze(1)).mean().item()

    lowest_removed = likelihood(scores)
    highest_removed = likelihood({site: -score for site, score in scores.items()})
    assert lowest_removed > highest_removed + 1


def slim(
    task: str, calibration: int, evaluation: int, checkpoint: Path, state: Path, scratch: Path, **fields: object
) -> Result:
    """The result of a job on a task of the trained adapter that removes 30 % of the feed-forward parameters."""

    def rows(name: str, limit: int) -> DataSource:
        return DataSource(uri=(SHARED / "data" / task / f"{name}.jsonl").as_uri(), limit=limit)

    body = {
        "model": {"uri": checkpoint.as_uri(), "adapter_uri": ADAPTER.as_uri()},
        "task": {"preset": task, "calibration": rows("train", calibration), "evaluation": rows("test", evaluation)}
        | fields,
        "target": {"ratio": 0.3},
    }
    job = new_record(JobRequest.model_validate(body)).model_copy(update={"attempt": 1})
    settings = Settings(state=state, device="cpu")
    storage = Storage((scratch / "artifacts").as_uri())
    result = pipeline.run(job, settings=settings, storage=storage, progress=IgnoredProgress(), scratch=scratch)
    assert any(key.endswith("manifest.json") for key, _ in storage.list(""))
    return result


def check_task_is_kept(result: Result) -> None:
    """Check that both models are accurate, well above the majority class, and the slim one nearly as the dense one."""
    dense, slim = result.metrics.dense.value, result.metrics.slim.value
    assert dense is not None
    assert slim is not None
    assert result.metrics.slim.majority is not None
    assert dense.value > 0.8
    assert slim.low > result.metrics.slim.majority
    assert slim.value > dense.value - 0.12
    assert result.parameters.dense == 134_515_008
    assert result.parameters.slim == 134_515_008 - 30 * 3 * 576 * (1536 - 1088)
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance


@pytest.mark.slow
@needs_shared
def test_a_job_on_sst2_keeps_the_accuracy_at_30_percent(checkpoint: Path, state: Path, tmp_path: Path) -> None:
    check_task_is_kept(slim("sst2", 24, 24, checkpoint, state, tmp_path))


@needs_shared
@pytest.mark.slow
def test_a_job_on_ag_news_keeps_the_accuracy_at_30_percent(checkpoint: Path, state: Path, tmp_path: Path) -> None:
    check_task_is_kept(slim("ag_news", 128, 150, checkpoint, state, tmp_path))


@needs_shared
@pytest.mark.slow
def test_the_dense_model_writes_reviews_that_it_judges_as_intended(
    checkpoint: Path, state: Path, tmp_path: Path
) -> None:
    result = slim("sst2", 16, 24, checkpoint, state, tmp_path, synthesis={"rows": 8})
    report = Report.model_validate_json((tmp_path / "output/report.json").read_bytes())
    found = report.synthesis["sst2"]
    assert found.rows is not None
    assert (found.chat, found.given, found.rows.written) == (True, 16, 8)
    assert found.rows.kept >= 3
    assert report.calibration_examples == 16 + found.rows.kept
    assert result.metrics.dense.value.value > 0.8
