"""Whatever a model is, plan, job and written files agree with stock transformers.

Hypothesis draws models of all families as `tests.support.drawn_models` describes them, and requests for them. For each:

- what the plan refuses the worker refuses with the same code, what it accepts the job finishes, and exact counts are
  those of the result;
- the written files give the logits of the model as it was drawn, its adapter beside its weights, with the removed units
  silenced by hooks of the test's own; a reader of the older fields of config.json gets the same;
- dense and slim model are judged by the answers that stock transformers gives, row by row, to the prompts that the
  tokenizer makes by default; the headline figure is that of the files with the label offsets of their task.json.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, settings, strategies
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from service.contract.answers.catalog import Plan
from service.contract.answers.report import Report
from service.contract.answers.result import Result
from service.contract.errors import TaskslimError
from service.contract.request.job_request import JobRequest
from service.models.families.family import CLASSIFIERS
from service.models.families.table import family_of
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import drawn_models
from tests.support.drawn_models import DrawnModel, drawn_model
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows
from tests.support.stock_answers import greedy, log_probability, silenced
from tests.support.tiny_models import TINY, inputs_of, tiny_family
from worker.checkpoints.model_classes.per_layer import loader_class
from worker.checkpoints.weights import AUTO_CLASSES
from worker.evaluation import latency

LABELS = {"p": "positive", "n": "negative"}
CLASSES = {"a": "LABEL_0", "b": "LABEL_1", "c": "LABEL_2"}
TEMPLATE = "Review {text} :"
LONGEST = "good film dog"  # target that sets the number of tokens that are generated
# Of two to five words, so that batches have padding.
TEXTS = [" ".join(WORDS[(row * step + step + row // 8) % 8] for step in range(1, 3 + row % 4)) for row in range(12)]
PLAIN = {"criterion": "attribution", "repair": "none"}
SCOPES = {"uniform": "layer", "per_layer": "global"}
EXACT = 2e-4  # greatest difference of a logit, relative to the greatest logit
NO_OLD_FIELDS = ("gemma3_text", "gemma4_text")  # families whose class does not read all of the older fields
MERGED = 0.25  # difference of all logits, relative to their norm, where merged weights are rounded
ROUNDED = 0.1  # relative difference of a likelihood that is computed in bfloat16 or float16


@dataclass(frozen=True)
class DrawnJob:
    """A model and what is asked for it."""

    model: DrawnModel
    units: list[str]
    layout: str
    ratio: float
    generates: bool
    protect_first: int = 0


def drawn_job(random: Random, names: Sequence[str] = tuple(TINY)) -> DrawnJob:
    """A job on a model of one of the families."""
    model = drawn_model(random, names)
    neurons = "experts" if tiny_family(model.name).names.experts else "ffn"
    units = random.choice(([neurons], ["heads"], [neurons, "heads"], ["layers"]))
    if model.damage or model.adapter_damage:
        units = [neurons]  # one reason to refuse a job is enough
    return DrawnJob(
        model,
        units,
        layout="uniform" if units == ["layers"] else random.choice(("uniform", "per_layer")),
        ratio=random.choice((0.5, 0.25)),
        generates=random.random() < 0.4 and model.kind not in CLASSIFIERS and model.dtype == "float32",
        protect_first=random.choice((0, 1, 1)) if units == ["layers"] else 0,
    )


@pytest.fixture(scope="module", autouse=True)
def timed_twice() -> Iterator[None]:
    """Passes are timed twice: their times are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "RUNS", 2)
        torch.set_num_threads(1)
        yield


# --- what stock transformers answers ---------------------------------------------------------------------------------


@dataclass
class Expected:
    """The stock model of a job, and the answers that it gives to the rows."""

    job: DrawnJob
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def words(self) -> dict[str, str]:
        return CLASSES if self.job.model.kind in CLASSIFIERS else LABELS

    def scores(self) -> Tensor:
        """log P(label | prompt) of every row."""
        kind, words = self.job.model.kind, list(self.words.values())
        prompts = [TEMPLATE.format(text=text) for text in TEXTS]
        return torch.stack([log_probability(self.model, self.tokenizer, kind, prompt, words) for prompt in prompts])

    def texts(self) -> list[str]:
        """The text that is generated for every row."""
        kind = self.job.model.kind
        count = len(self.tokenizer(self._prefix + LONGEST, add_special_tokens=False)["input_ids"]) + 1
        prompts = [TEMPLATE.format(text=text) for text in TEXTS]
        return [greedy(self.model, self.tokenizer, kind, prompt, count) for prompt in prompts]

    @property
    def _prefix(self) -> str:
        return " " if self.job.model.kind == "causal" else ""


def rows_for(expected: Expected) -> list[dict[str, Any]]:
    """Rows with the stock model's own answers, so that it answers all of them rightly; one target is the longest."""
    if expected.job.generates:
        return [{"text": text, "target": LONGEST} for text in TEXTS]
    labels = list(expected.words)
    answers = expected.scores().argmax(dim=1).tolist()
    return [{"text": text, "label": labels[answer]} for text, answer in zip(TEXTS, answers, strict=True)]


# --- plan, job and files ---------------------------------------------------------------------------------------------


def request_of(job: DrawnJob, root: Path, expected: Expected) -> JobRequest:
    """The request of a job, with its rows in files."""
    kind = "generation" if job.generates else "classification"
    every_label = [{"text": text, "label": label} for text in TEXTS[:6] for label in expected.words]
    rows = rows_for(expected)
    task = {
        "kind": kind,
        "template": TEMPLATE,
        "calibration": {"uri": write_rows(root / "calibration.jsonl", rows if job.generates else every_label)},
        "evaluation": {"uri": write_rows(root / "evaluation.jsonl", rows)},
    }
    model = {"uri": (root / "model").as_uri()}
    if job.model.adapter is not None:
        model["adapter_uri"] = (root / "adapter").as_uri()
    return JobRequest.model_validate(
        {
            "model": model,
            "task": task | ({} if job.generates else {"labels": expected.words}),
            "method": PLAIN | {"units": job.units, "scope": SCOPES[job.layout], "protect_first": job.protect_first},
            "target": {"ratio": job.ratio},
            "output": {"round_to": 8, "layout": job.layout},
        }
    )


def planned(request: JobRequest, deployment: Deployment) -> Plan | TaskslimError:
    try:
        return plan(request, Access(deployment.storage, "default", True, ()))
    except TaskslimError as error:
        return error


def finished(request: JobRequest, deployment: Deployment) -> Result | TaskslimError:
    with warnings.catch_warnings(action="ignore"):
        try:
            return deployment.run(request)
        except TaskslimError as error:
            return error


def check_plan(found: Plan, result: Result) -> None:
    """Exact counts are those of the result."""
    assert found.parameters.dense == result.parameters.dense
    if found.exact:
        assert found.widths == result.widths
        assert found.ratio == pytest.approx(result.ratio)
        assert (found.parameters.slim, found.bytes.slim) == (result.parameters.slim, result.bytes.slim)


def reloaded(directory: Path, written: dict[str, Any], **loading: Any) -> PreTrainedModel:
    """The written checkpoint in float32, loaded by its stock class or by the per-layer class."""
    loader = loader_class(written, AUTO_CLASSES[family_of(written, "the slim model").kind])
    model: PreTrainedModel = loader.from_pretrained(directory, dtype=torch.float32, **loading)
    model.eval()
    return model


def check_files(job: DrawnJob, expected: Expected, directory: Path) -> None:
    """The files give the logits of the silenced model, also where a reader knows only the older fields."""
    with silenced(expected.model, load_file(directory / "kept.safetensors")), torch.inference_mode():
        right = expected.model(**inputs_of(expected.model)).logits
    config = json.loads((directory / "model/config.json").read_text())
    assert config["dtype"] == job.model.dtype
    models = [reloaded(directory / "model", config)]
    if "rope_parameters" in config and "layer_widths" not in config and config["model_type"] not in NO_OLD_FIELDS:
        fields = {name: value for name, value in config.items() if name != "rope_parameters"}
        models.append(reloaded(directory / "model", config, config=AutoConfig.for_model(**fields)))
    for model in models:
        with torch.inference_mode():
            written = model(**inputs_of(model)).logits
        if job.model.kind == "classifier":  # the bias of the head has the label offsets
            written = written - (written - right).mean(dim=0)
        if job.model.adapter is None or job.model.dtype == "float32":
            torch.testing.assert_close(written, right, rtol=0, atol=EXACT * right.abs().max().item())
        else:  # the merged weights are rounded to the dtype of the checkpoint
            assert (written - right).norm() < MERGED * right.norm()


def check_shipped(expected: Expected, directory: Path, result: Result) -> None:
    """The files, with the label offsets of their task.json, answer as the headline figure says."""
    [task] = json.loads((directory / "model/task.json").read_text())["tasks"]
    config = json.loads((directory / "model/config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    shipped = Expected(expected.job, reloaded(directory / "model", config), tokenizer)
    offset_L = torch.tensor([task["label_offsets"][label] for label in expected.words])
    answer_E = (shipped.scores() + offset_L).argmax(dim=1)
    right_E = expected.scores().argmax(dim=1)
    assert result.metrics.slim.value.value == pytest.approx((answer_E == right_E).float().mean().item())


def check_answers(job: DrawnJob, expected: Expected, directory: Path, result: Result) -> None:
    """The metrics and the changed answers of the report are those of the stock model and of the silenced one."""
    kept = load_file(directory / "kept.safetensors")
    report = Report.model_validate_json((directory / "report.json").read_text())
    if job.generates:
        dense = expected.texts()
        with silenced(expected.model, kept):
            slim = expected.texts()
        changed = [(before, now) for before, now in zip(dense, slim, strict=True) if before != now]
        assert [(answer.dense, answer.slim) for answer in report.changed] == changed
        assert result.metrics.dense.value.value == dense.count(LONGEST) / len(dense)
        return
    dense_EL = expected.scores()
    with silenced(expected.model, kept):
        slim_EL = expected.scores()
    right = dense_EL.argmax(dim=1, keepdim=True)
    rounded = job.model.dtype != "float32"
    assert result.metrics.dense.raw is not None
    assert rounded or result.metrics.dense.raw.value == 1
    for metrics, score_EL in ((result.metrics.dense, dense_EL), (result.metrics.slim, slim_EL)):
        likelihood = score_EL.gather(1, right).mean().item()
        assert metrics.log_likelihood == pytest.approx(likelihood, rel=ROUNDED if rounded else 1e-3, abs=1e-3)
    if not rounded:
        check_shipped(expected, directory, result)


def check(job: DrawnJob) -> None:
    """Plan and run a drawn job, and compare."""
    note(repr(job))
    with TemporaryDirectory() as root:
        _check(job, Path(root))


def _check(job: DrawnJob, root: Path) -> None:
    model = drawn_models.write(job.model, root)
    expected = Expected(job, model, AutoTokenizer.from_pretrained(root / "model"))
    deployment = Deployment(root)
    request = request_of(job, root, expected)
    found, result = planned(request, deployment), finished(request, deployment)
    note(f"plan: {found!r}\njob: {result!r}")
    if isinstance(found, TaskslimError) or isinstance(result, TaskslimError):
        assert isinstance(found, TaskslimError), f"only the worker refuses: {result}"
        assert isinstance(result, TaskslimError), f"only the plan refuses: {found}"
        assert (found.code, found.param) == (result.code, result.param), f"plan: {found}; worker: {result}"
        return
    check_plan(found, result)
    deployment.download(root / "files")
    check_files(job, expected, root / "files")
    check_answers(job, expected, root / "files", result)


# One number draws a whole job: Hypothesis would else spend most cases on variants of the one before.
RANDOM = strategies.randoms(use_true_random=True)
FEW = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@FEW
@given(random=RANDOM)
def test_plan_job_and_files_agree_with_the_stock_model(random: Random) -> None:
    check(drawn_job(random))
