"""The pipeline of a job: its stages in order, each a function of the results of the stages before it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers.utils import logging

from service.contract.answers.job import Stage
from service.contract.answers.result import (
    Controls,
    DenseSlim,
    Export,
    JobMetrics,
    RecoveredMetrics,
    RecoveryResult,
    Result,
    Verified,
)
from service.contract.options import EXPORTS, Merge, Repair
from service.contract.request import presets
from service.jobs.record import JobRecord
from service.settings import Settings
from service.storage.artifact_names import MODEL, UNTRAINED
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from worker.checkpoints.loading import LoadedModel
from worker.recovery.recovered import Recovered
from worker.reporting import artifacts, exports, findings, pushing, quantised, report
from worker.search.candidates import Candidates
from worker.search.chosen import ChosenModel, kept_metric
from worker.search.counted import counted_candidate
from worker.search.general_weights import ComparedWeights, compare_weights
from worker.search.search import search
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units.groups import Kept
from worker.sources.validation import weight_file_bytes
from worker.stages import inputs, pseudo_labels, recovery, synthesis, vocabulary
from worker.stages.context import JobContext, StageProgress
from worker.stages.evaluation import controls, evaluation_sets, speed
from worker.stages.evaluation.evaluation_sets import (
    SLIMMED_FOR,
    EvaluationSet,
    Measurements,
    Role,
    SetKey,
    having_role,
    job_metrics,
    own,
)
from worker.stages.evaluation.measurements import measure_dense, measure_slim, shipped_tasks
from worker.stages.evaluation.speed import Speed
from worker.stages.inputs import Sources
from worker.stages.memory.batch_size import halving
from worker.stages.scores import dial as dials
from worker.stages.scores import job_scores
from worker.stages.scores.cache import ScoreCache
from worker.stages.shards import measuring
from worker.stages.shards.parts import Parts
from worker.stages.shards.rows import Shard
from worker.stages.slim import cut_task_model, repair_model
from worker.stages.task_model import Measured, TaskModel, answer_all, check_latency_tokens, load, with_examples


def run(
    job: JobRecord,
    *,
    settings: Settings,
    storage: Storage,
    progress: StageProgress,
    scratch: Path,
    scores: ScoreSets | None = None,
) -> Result:
    """Slim the job's model for its task and store the artifacts, the manifest last.

    Measurements that `scores` holds are not taken again. `scratch` is an empty directory of this attempt. The caller
    deletes it, and the files that a failed attempt has stored. Raises the errors of `service.contract.errors`,
    LeaseLost where another attempt has stored its manifest, and whatever `progress` raises.
    """
    logging.disable_progress_bar()
    context = JobContext(job, presets.resolve(job.request.slimmed_for[0]), settings, storage, progress, scratch)
    with context.processes:
        return run_stages(context, scores)


def run_stages(context: JobContext, scores: ScoreSets | None) -> Result:
    """The stages of `run`."""
    artifacts.start_verification(context)  # first: the imports of its process take as long as a small job
    sources, sets = prepare(context)
    sets = synthesis.extend(context, sources, sets)
    parts = Parts(context, sources.digests) if context.job.request.method.shards > 1 else None
    cache = ScoreCache(context, sources.digests, sources.fingerprints, scores, parts)
    with context.stage(Stage.evaluate_dense):
        sets, dense = halving(context, sets, partial(evaluate_dense, context, cache))
        dense_speed = speed.measure_dense(context, own(sets).task_model)
    with context.stage(Stage.attribute):
        path, sets, task_model, dial = halving(context, sets, partial(job_scores.score, context, cache))
        path = job_scores.with_token_use(context, path, sets, sources)
    chosen = choose_model(context, sources, task_model, dense[own(sets).key], path, compared_weights(dial, sets, dense))
    tasks = [each.task_model for each in having_role(sets, *SLIMMED_FOR)]
    sets = with_slim_model(context, sets, chosen)
    dense |= {own(sets).key: chosen.dense}
    with context.stage(Stage.evaluate_slim):
        cut = CutModel(sets, measure_slim(sets, partial(answer_all, context)))
        timed = speed.measure_slim(context, chosen.task_model, dense_speed)
    trained = recover(context, sources, chosen, cut, tasks)
    final = trained.model if trained else cut
    compared = control(context, sources, task_model, chosen, path)
    with context.stage(Stage.verify):
        untrained = save(context, sources, cut, chosen, UNTRAINED) if trained else None
        verified = save(context, sources, final, chosen, MODEL)
    exported = export(context)
    load_dense = partial(dense_model, context, sources, task_model)
    copies = quantised.quantise(context, final.sets, tasks, load_dense, chosen.rows)
    with context.stage(Stage.upload):
        metrics = final.metrics(dense).model_copy(update={"controls": compared})
        slim = copies.judged or final.measured[own(sets).key]
        result = conclude(context, sources, chosen, slim, metrics, timed, verified)
        recovered = trained.result(context, cut, dense, untrained) if trained and untrained else None
        outcome = {"recovery": recovered, "exports": exported, "quantised": copies.models}
        result = result.model_copy(update=cache.outcome() | outcome)
        ranking = path.at(chosen.candidate.requested_ratio)
        found = findings.find(chosen, final.sets, dense, final.measured, timed.passes, ranking)
        return publish(context, result, partial(report.write, context, sources, final.sets, found=found))


def run_shard(
    job: JobRecord,
    number: int,
    *,
    settings: Settings,
    storage: Storage,
    progress: StageProgress,
    scratch: Path,
    scores: ScoreSets | None = None,
) -> None:
    """Measure and store the part of one shard, for the `run` of the job that adds up the parts; raises as `run`."""
    logging.disable_progress_bar()
    context = JobContext(job, presets.resolve(job.request.slimmed_for[0]), settings, storage, progress, scratch)
    sources, sets = prepare(context)
    parts, shard = Parts(context, sources.digests), Shard(number, job.request.method.shards)
    measuring.measure(context, ScoreCache(context, sources.digests, None, scores, parts), parts, sets, shard)


def prepare(context: JobContext) -> tuple[Sources, list[EvaluationSet]]:
    """(the sources of the job, its evaluation sets with the loaded model)."""
    with context.stage(Stage.fetch):
        pushing.check(context)
        sources = inputs.fetch(context)
    with context.stage(Stage.load):
        sets = evaluation_sets.build(context, load(context, sources.model, sources.adapter), sources.rows)
        check_latency_tokens(context, own(sets).task_model)
        recovery.check(context, sets)
        measuring.check(context, sets)
    return sources, sets


def publish(context: JobContext, result: Result, write_report: Callable[[Result], None]) -> Result:
    """Push the model where the request asks for it, and store the files of the job, the manifest last.

    The result with what became of the push. The model is pushed with its card, which is a part of the report.
    """
    write_report(result)
    if context.job.request.output.uri is not None:
        pushed = pushing.push(context, context.job.request.output.uri)
        result = result.model_copy(update={"pushed": pushed})
        write_report(result)
    artifacts.upload(context)
    return result


@dataclass(frozen=True)
class CutModel:
    """A cut model with the evaluation sets, and what was measured of it on them."""

    sets: Sequence[EvaluationSet]
    measured: Measurements

    def metrics(self, dense: Measurements) -> JobMetrics:
        """The metrics of the dense model and of this one."""
        return job_metrics(self.sets, dense, self.measured)


@dataclass(frozen=True)
class TrainedModel:
    """The recovered model, and how it was trained."""

    model: CutModel
    recovered: Recovered

    def result(self, context: JobContext, cut: CutModel, dense: Measurements, untrained: Verified) -> RecoveryResult:
        """What the result says of it; `cut` is the model before the training."""
        asked, before = context.job.request.recovery, cut.metrics(dense)
        assert asked is not None
        metrics = RecoveredMetrics(dense=before.dense, slim=before.slim, recovered=self.model.metrics(dense).slim)
        return recovery.result(asked, self.recovered, metrics, untrained)


def evaluate_dense(
    context: JobContext, cache: ScoreCache, sets: Sequence[EvaluationSet]
) -> tuple[list[EvaluationSet], dict[SetKey, Measured]]:
    """(the sets with the dense model's answers in place of missing labels, its measurements on them)."""
    labelled = pseudo_labels.label(context, sets, cache.answer)
    recovery.check(context, labelled)  # again: uncertain answers are left out
    return labelled, measure_dense(labelled, cache.answer_all)


def compared_weights(
    settings: Sequence[dials.Setting], sets: Sequence[EvaluationSet], dense: Measurements
) -> ComparedWeights | None:
    """What a comparison of general weights measures; None for a job without one."""
    if not settings:
        return None
    [general] = having_role(sets, Role.general)
    return ComparedWeights(settings, general.task_model, dense[general.key])


def choose_model(
    context: JobContext,
    sources: Sources,
    task_model: TaskModel,
    dense: Measured,
    path: ScorePath,
    compared: ComparedWeights | None,
) -> ChosenModel:
    """The cut model that meets the target. Raises TargetUnreachable where there is none."""
    request = context.job.request
    if request.target.is_measured:
        with context.stage(Stage.search):
            if compared is not None:
                return compare_weights(context, task_model, dense, path, compared)
            return search(context, task_model, dense, path, partial(artifacts.save, context, sources))
    with context.stage(Stage.select):
        candidates = Candidates(context, task_model, path)
        candidate = counted_candidate(candidates, request.target)
    if request.method.repair is not Repair.none:
        with context.stage(Stage.repair):
            repair(context, task_model, candidate.kept, path.moments)
    if request.method.merge is not Merge.none:
        with context.stage(Stage.repair):
            candidates.merge(task_model, candidate.kept)
    with context.stage(Stage.slice):
        slim = cut_task_model(context, task_model, candidate.kept, request.output.layout)
    return ChosenModel(candidate, candidates.groups, slim, dense, rows=list(range(len(task_model.evaluation.examples))))


def with_slim_model(context: JobContext, sets: Sequence[EvaluationSet], chosen: ChosenModel) -> list[EvaluationSet]:
    """The sets with the chosen model, and the job's own evaluation rows that the result is reported on."""
    slim = chosen.task_model
    return [
        replace(each, rows=[each.rows[row] for row in chosen.rows], task_model=slim)
        if each.role is Role.task
        else replace(each, task_model=vocabulary.with_loaded(context, each.task_model, slim.loaded))
        for each in sets
    ]


def recover(
    context: JobContext, sources: Sources, chosen: ChosenModel, cut: CutModel, tasks: Sequence[TaskModel]
) -> TrainedModel | None:
    """The cut model after its recovery, where the request asks for one; `tasks` have the rows to train on."""
    if context.job.request.recovery is None:
        return None

    def advance(done: int, total: int) -> None:
        context.progress.advance(done, total, "steps")

    with context.stage(Stage.recover):
        recovered = chosen.recovered or recovery.recover(
            context, chosen.task_model, tasks, lambda: load(context, sources.model, sources.adapter).model, advance
        )
        sets = evaluation_sets.with_loaded_model(cut.sets, recovered.loaded, recovered.probe)
        return TrainedModel(CutModel(sets, measure_slim(sets, partial(answer_all, context))), recovered)


def save(context: JobContext, sources: Sources, model: CutModel, chosen: ChosenModel, name: str) -> Verified:
    """Save and verify the checkpoint of a cut model. Raises VerificationFailed."""
    shipped = shipped_tasks(model.sets, model.measured)
    return artifacts.save(context, sources, shipped, chosen.groups, chosen.candidate, name)


def dense_model(context: JobContext, sources: Sources, task_model: TaskModel) -> LoadedModel:
    """The dense model after the cut: the loaded one where copies of it were cut and it has no more parameters, else one
    that is loaded again."""
    request = context.job.request
    if request.target.is_measured and request.method.repair is not Repair.bias:
        return task_model.loaded
    return load(context, sources.model, sources.adapter)


def export(context: JobContext) -> list[Export]:
    """The files for other runtimes, where the request asks for them. Raises ExportFailed."""
    if not set(EXPORTS) & set(context.job.request.output.formats):
        return []
    with context.stage(Stage.export):
        return exports.export(context)


def repair(context: JobContext, task_model: TaskModel, kept: Kept, moments: Mapping[str, Moments] | None) -> None:
    """Repair the model for a cut to `kept`. Raises InvalidRequest where the family does not support the repair."""

    def advance(done: int, total: int) -> None:
        context.progress.advance(done, total, "batches")

    repair_model(context, task_model, kept, moments, advance)


def control(
    context: JobContext, sources: Sources, task_model: TaskModel, chosen: ChosenModel, path: ScorePath
) -> Controls | None:
    """The metrics of models cut to the same ratio by other scores, where the request asks for them.

    `task_model` has the rows in the tokens of the dense model, of which each control is cut.
    """
    if not context.job.request.method.controls:
        return None
    with context.stage(Stage.controls):
        ratio = chosen.candidate.requested_ratio
        examples = [task_model.evaluation.examples[row] for row in chosen.rows]
        reported = with_examples(context, task_model, task_model.evaluation, examples)
        control_inputs = controls.ControlInputs(
            replace(task_model, evaluation=reported),
            lambda: load(context, sources.model, sources.adapter),
            partial(repair, moments=path.moments),
        )
        return controls.measure(context, control_inputs, path.at(ratio), ratio)


def conclude(
    context: JobContext,
    sources: Sources,
    chosen: ChosenModel,
    slim: Measured,
    metrics: JobMetrics,
    timed: Speed,
    verified: Verified,
) -> Result:
    """The result of the job from what its stages have counted and measured."""
    slim_bytes = weight_file_bytes(artifacts.checkpoint_directory(context))
    return Result(
        metrics=metrics,
        parameters=DenseSlim(dense=chosen.dense.parameters, slim=slim.parameters),
        bytes=DenseSlim(dense=weight_file_bytes(sources.fetched_model), slim=slim_bytes),
        latency_ms=timed.latency,
        generation_speed=timed.generation,
        widths=findings.widths(chosen.groups, chosen.candidate.kept),
        ratio=chosen.candidate.ratio,
        verified=verified,
        curve=chosen.curve,
        kept_metric=kept_metric(context, chosen, slim),
    )
