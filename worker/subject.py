"""The model that a job slims, its task in tokens, and what is measured of both before and after."""

from dataclasses import dataclass
from pathlib import Path

import torch

from service.errors import InvalidRequest
from service.schemas import Layout, Metrics, TaskKind
from worker import answers, data, evaluation, models, prompts
from worker.models import LoadedModel
from worker.per_layer import is_own
from worker.prompts import Example, Wording
from worker.rows import Row
from worker.slimming.architectures import ARCHITECTURES, Architecture
from worker.slimming.objectives import Batch
from worker.staging import StagedJob


@dataclass(frozen=True)
class Examples:
    """Rows as one model reads them."""

    examples: list[Example]
    batches: list[Batch]
    shortened: int


@dataclass(frozen=True)
class Subject:
    """The model that is being slimmed, and its task in tokens."""

    loaded: LoadedModel
    wording: Wording
    padding: data.Padding
    calibration: Examples
    evaluation: Examples

    @property
    def architecture(self) -> Architecture:
        """Where its family keeps the units."""
        return ARCHITECTURES[self.loaded.family.model_type]


@dataclass(frozen=True)
class Measured:
    """A model on the evaluation rows."""

    metrics: Metrics
    answers: list[str]  # labels, or generated texts, in the order of the rows
    parameters: int


def load(
    staged: StagedJob, model: Path, adapter: Path | None, calibration: list[Row], evaluation_rows: list[Row]
) -> Subject:
    """The model on its device, and its task in tokens. Raises InvalidRequest for a layout that cannot hold it."""
    loaded = models.load(model, device=device(staged.settings.device), adapter=adapter)
    if is_own(loaded.model) and staged.job.request.output.layout is Layout.uniform:
        message = "the layers of this model have widths of their own already: ask for the layout `per-layer`"
        raise InvalidRequest(message, param="output.layout")
    config, kind = loaded.model.config, loaded.family.kind
    wording = prompts.wording(kind, staged.task, loaded.tokenizer, config)
    padding = data.padding(loaded.model, loaded.tokenizer, kind)

    def examples(rows: list[Row]) -> Examples:
        encoded, shortened = prompts.encode(rows, wording)
        return Examples(encoded, data.batches(encoded, padding, staged.settings.tokens_per_batch), shortened)

    return Subject(loaded, wording, padding, examples(calibration), examples(evaluation_rows))


def evaluate(staged: StagedJob, subject: Subject) -> Measured:
    """The model as it now is, on the evaluation rows."""
    model, rows = subject.loaded.model, subject.evaluation
    generates = staged.task.kind is TaskKind.generation
    count = staged.counter(len(rows.examples) * (2 if generates else 1))
    scores = evaluation.score(model, rows.batches, count)
    if generates:
        given = evaluation.generate(
            model,
            rows.examples,
            subject.wording,
            subject.padding,
            staged.settings.tokens_per_batch,
            lambda done: count(len(rows.examples) + done),
        )
        metrics = evaluation.generation_metrics(scores, rows.examples, given)
    else:
        metrics = evaluation.classification_metrics(scores)
        given = answers.chosen_labels(scores, list(subject.wording.words))
    return Measured(metrics, given, models.count_parameters(model))


def device(name: str) -> torch.device:
    """The device of a setting; `auto` is the first GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
