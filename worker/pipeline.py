"""The pipeline of a job: its stages in order, each a function of the results of the stages before it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from transformers.utils import logging

from service.contract import presets
from service.contract.job import Stage
from service.contract.options import Merge, Repair
from service.contract.result import Controls, DenseSlim, JobMetrics, Result, Verified
from service.jobs.record import JobRecord
from service.settings import Settings
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from worker.reporting import artifacts, findings, report
from worker.search.candidates import Candidates
from worker.search.chosen import ChosenModel, kept_metric
from worker.search.counted import counted_candidate
from worker.search.search import search
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.scoring.multi_task import united_paths
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units import Kept
from worker.sources.validation import weight_file_bytes
from worker.stages import controls, evaluation_sets, inputs, pseudo_labels, speed
from worker.stages.attribution import attribute, step_ratios
from worker.stages.context import JobContext, StageProgress
from worker.stages.evaluation_sets import SLIMMED_FOR, EvaluationSet, having_role, job_metrics, own
from worker.stages.inputs import Sources
from worker.stages.measurements import measure_dense, measure_slim, shipped_tasks
from worker.stages.score_cache import ScoreCache
from worker.stages.slim import probed, repair_model, slim_task_model
from worker.stages.speed import Speed
from worker.stages.task_model import Measured, TaskModel, answer_all, check_latency_tokens, load


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
    with context.stage(Stage.fetch):
        sources = inputs.fetch(context)
    cache = ScoreCache(context, sources.digests, sources.fingerprints, scores)
    with context.stage(Stage.load):
        sets = evaluation_sets.build(context, load(context, sources.model, sources.adapter), sources.rows)
        check_latency_tokens(context, own(sets).task_model)
    with context.stage(Stage.evaluate_dense):
        sets = pseudo_labels.label(context, sets, cache.answer)
        dense = measure_dense(sets, cache.answer_all)
    with context.stage(Stage.attribute):
        path = score_tasks(context, sets, cache)
        task_model = evaluation_sets.calibrated_on_all_tasks(sets)
    chosen = choose_model(context, sources, task_model, dense[own(sets).key], path)
    sets = evaluation_sets.with_slim_model(sets, chosen.task_model, chosen.rows)
    dense |= {own(sets).key: chosen.dense}
    with context.stage(Stage.evaluate_slim):
        slim = measure_slim(sets, partial(answer_all, context))
        timed = speed.measure(context, sources, chosen.task_model)
    measured_controls = control(context, sources, chosen, path)
    with context.stage(Stage.verify):
        shipped = shipped_tasks(sets, slim)
        verified = artifacts.save(context, sources, shipped, chosen.groups, chosen.candidate)
    with context.stage(Stage.upload):
        metrics = job_metrics(sets, dense, slim).model_copy(update={"controls": measured_controls})
        result = conclude(context, sources, chosen, slim[own(sets).key], metrics, timed, verified)
        result = result.model_copy(update=cache.outcome())
        found = findings.find(chosen, sets, dense, slim, timed.passes, path.at(chosen.candidate.requested_ratio))
        report.write(context, sources, sets, result, found)
        artifacts.upload(context)
    return result


def score_tasks(context: JobContext, sets: Sequence[EvaluationSet], cache: ScoreCache) -> ScorePath:
    """The unit scores of the task, or of all tasks of a union together."""
    method = context.job.request.method
    ratios = step_ratios(context.job.request)
    scored = [each.task_model for each in having_role(sets, *SLIMMED_FOR)]
    paths = [cache.path(each, ratios, partial(attribute, context, each, ratios)) for each in scored]
    return united_paths(paths, method.union)


def choose_model(
    context: JobContext, sources: Sources, task_model: TaskModel, dense: Measured, path: ScorePath
) -> ChosenModel:
    """The cut model that meets the target. Raises TargetUnreachable where there is none."""
    request = context.job.request
    if request.target.is_measured:
        with context.stage(Stage.search):
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
        slim = slim_task_model(probed(context, task_model, candidate.kept), candidate.kept, request.output.layout)
    return ChosenModel(candidate, candidates.groups, slim, dense, rows=list(range(len(task_model.evaluation.examples))))


def repair(context: JobContext, task_model: TaskModel, kept: Kept, moments: Mapping[str, Moments] | None) -> None:
    """Repair the model for a cut to `kept`. Raises InvalidRequest where the family does not support the repair."""

    def advance(done: int, total: int) -> None:
        context.progress.advance(done, total, "batches")

    repair_model(context, task_model, kept, moments, advance)


def control(context: JobContext, sources: Sources, chosen: ChosenModel, path: ScorePath) -> Controls | None:
    """The metrics of models cut to the same ratio by other scores, where the request asks for them."""
    if not context.job.request.method.controls:
        return None
    with context.stage(Stage.controls):
        ratio = chosen.candidate.requested_ratio
        control_inputs = controls.ControlInputs(
            chosen.task_model,
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
