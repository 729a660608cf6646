"""The measurements that the shards of a job have stored, one part for each shard, and their sums over all shards.

A file is named by the digest of the rows and of the model that it was measured with. What the shards have not measured
on these, because a source changed between two of them or because the model has to label the rows first, is measured by
the last job itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import structlog
import torch

from service.sources.fingerprints import digest
from service.storage.keys import shard_key, shards_prefix
from worker.data.examples import Example
from worker.data.provenance import digest_examples
from worker.evaluation.answers import Answers, concatenated
from worker.slimming.scoring import partial_sums, second_moments
from worker.slimming.scoring.attribution import Measure, Scored
from worker.slimming.scoring.partial_sums import PartialSums, Scoring, by_batches, by_rows
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units.groups import Group
from worker.stages.context import JobContext
from worker.stages.method import options
from worker.stages.scores.files import pack_answers, unpack_answers
from worker.stages.shards.files import pack_moments, pack_sums, unpack_moments, unpack_sums
from worker.stages.shards.rows import spans
from worker.stages.task_model import KeyT, TaskModel, answer_all

log = structlog.get_logger()


class Parts:
    """The parts of one job in the object store; `digests` are those of the model's and the adapter's files."""

    def __init__(self, context: JobContext, digests: Mapping[str, str]) -> None:
        self._context, self._digests = context, dict(digests)

    # --- for shards; `whole` is the model with the rows of all shards

    def add_answers(self, number: int, whole: TaskModel, answers: Answers) -> None:
        """Store the answers to one shard's part of the evaluation rows."""
        self._put(number, self._answers(whole), pack_answers(answers, {}))

    def add_moments(self, number: int, whole: TaskModel, part: TaskModel, group: Group, moments: Moments) -> None:
        """Store the moments of one module's input over one shard's part of the calibration rows."""
        weights = by_rows(part.calibration.batches, group.site.stack, moments.weights_N)
        content = pack_moments(replace(moments, weights_N=[weights]))
        self._put(number, self._moments(whole, group), content)

    def add_sums(self, number: int, whole: TaskModel, sums: PartialSums) -> None:
        """Store the sums over one shard's part of the calibration rows, after its moments."""
        self._put(number, self._sums(whole), pack_sums(sums))

    def has_answers(self, number: int, whole: TaskModel) -> bool:
        """Whether a shard has stored its answers."""
        return self._context.storage.exists(self._key(number, self._answers(whole)))

    def has_sums(self, number: int, whole: TaskModel) -> bool:
        """Whether a shard has stored its sums, and its moments."""
        return self._context.storage.exists(self._key(number, self._sums(whole)))

    # --- for the last job

    def answer_all(self, task_models: Mapping[KeyT, TaskModel]) -> dict[KeyT, Answers]:
        """The answers of each model to its evaluation rows, under the key of the model, without label offsets."""
        stored = self._stored()
        joined = {key: self._joined(task_model, stored) for key, task_model in task_models.items()}
        found = {key: answers for key, answers in joined.items() if answers is not None}
        missing = {key: task_model for key, task_model in task_models.items() if key not in found}
        return found | answer_all(self._context, missing)

    def measure_of(self, task_model: TaskModel) -> Measure | None:
        """Scores the units from the sums over all shards; None where a shard has not measured them."""
        name, examples = self._sums(task_model), task_model.calibration.examples
        numbers = self._numbers(name, examples, self._stored())
        return None if numbers is None else partial(self._scored, task_model, numbers)

    def _joined(self, task_model: TaskModel, stored: set[str]) -> Answers | None:
        name = self._answers(task_model)
        numbers = self._numbers(name, task_model.evaluation.examples, stored)
        if numbers is None:
            return None
        return concatenated([unpack_answers(self._get(number, name)) for number in numbers])

    def _scored(self, task_model: TaskModel, numbers: Sequence[int], on_examples: object) -> Scored:
        sums = [unpack_sums(self._get(number, self._sums(task_model))) for number in numbers]
        moments = partial(self._joined_moments, task_model, numbers)
        return partial_sums.score(scoring(self._context, task_model), partial_sums.added(sums), moments)

    def _joined_moments(self, task_model: TaskModel, numbers: Sequence[int], group: Group) -> Moments:
        name = self._moments(task_model, group)
        found = second_moments.added([unpack_moments(self._get(number, name)) for number in numbers])
        weights = by_batches(task_model.calibration.batches, group.site.stack, torch.cat(found.weights_N))
        return replace(found, weights_N=weights)

    def _numbers(self, name: str, examples: Sequence[Example], stored: set[str]) -> list[int] | None:
        """The shards that have rows of these; None where one of them has not stored its part."""
        numbers = [number for number, span in enumerate(spans(examples, self._of)) if span]
        if all(self._key(number, name) in stored for number in numbers):
            return numbers
        log.info("a measurement is taken by the last job of the shards", name=name)
        return None

    # --- the object store

    @property
    def _of(self) -> int:
        return self._context.job.request.method.shards

    def _stored(self) -> set[str]:
        job = self._context.job
        return {key for key, _ in self._context.storage.list(shards_prefix(job.tenant, job.id))}

    def _key(self, number: int, name: str) -> str:
        return shard_key(self._context.job.tenant, self._context.job.id, number, name)

    def _put(self, number: int, name: str, content: bytes) -> None:
        self._context.storage.put_bytes(content, self._key(number, name))

    def _get(self, number: int, name: str) -> bytes:
        return self._context.storage.get_bytes(self._key(number, name))

    def _answers(self, task_model: TaskModel) -> str:
        return f"answers-{self._digest(task_model.evaluation.examples)}"

    def _sums(self, task_model: TaskModel) -> str:
        return f"sums-{self._digest(task_model.calibration.examples)}"

    def _moments(self, task_model: TaskModel, group: Group) -> str:
        return f"moments-{self._digest(task_model.calibration.examples)}-{group.module}"

    def _digest(self, examples: Sequence[Example]) -> str:
        return digest({"rows": digest_examples(examples), "model": self._digests})


def scoring(context: JobContext, task_model: TaskModel) -> Scoring:
    """How the job scores the units of the model."""
    method = context.job.request.method
    return Scoring(
        task_model.loaded.model,
        task_model.architecture,
        method.scored_units,
        method.criterion,
        options(context),
    )
