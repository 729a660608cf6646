"""The stages of a job, in order, each a function of what the stages before it left."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging

from service.contract import presets
from service.contract.fields import MAX_RATIO
from service.contract.job import Stage
from service.contract.options import Repair
from service.contract.request import Target
from service.contract.result import Controls, DenseSlim, JobMetrics, Latency, Result, Verified
from service.jobs.record import JobRecord
from service.settings import Settings
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from worker.checkpoints import loading, validation
from worker.evaluation.latency import RUNS, SIZES, TOKENS, Speed, compare
from worker.reporting import artifacts, findings, report
from worker.search import controls, targets
from worker.search.candidates import Candidates
from worker.search.targets import Reached
from worker.slimming.repair.repairs import FITTED
from worker.slimming.scoring import attribution
from worker.slimming.scoring.iterative import ScorePath, Scores, follow, schedule
from worker.slimming.scoring.multi_task import united_paths
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units import Site
from worker.stages import domains, inputs, observed, side_tasks
from worker.stages.beside import Beside
from worker.stages.context import JobContext, StageProgress
from worker.stages.inputs import Sources
from worker.stages.method import options
from worker.stages.pseudo_labels import supervise
from worker.stages.score_cache import ScoreCache
from worker.stages.slim import choose, cut, locate_groups, refusing_units, repair_model
from worker.stages.task_model import Measured, TaskModel, encode_task, evaluate, load


def run(
    job: JobRecord,
    *,
    settings: Settings,
    storage: Storage,
    progress: StageProgress,
    scratch: Path,
    scores: ScoreSets | None = None,
) -> Result:
    """Slim the job's model for its task and leave the artifacts in storage, the manifest last.

    What `scores` holds is not measured again. `scratch` is an empty directory for this attempt alone. The caller
    removes it, and what a failed attempt has stored. Raises the errors of `service.contract.errors` for what the user
    can change, LeaseLost where another attempt has left its manifest, and whatever `progress` raises.
    """
    logging.disable_progress_bar()
    context = JobContext(job, presets.resolve(job.request.slimmed_for[0]), settings, storage, progress, scratch)
    with context.stage(Stage.fetch):
        sources = inputs.fetch(context)
    reuse = ScoreCache(context, sources.digests, sources.fingerprints, scores)
    with context.stage(Stage.load):
        loaded = load(context, sources.model, sources.adapter)
        task_model = encode_task(context, loaded, context.task, sources.calibration, sources.evaluation)
        beside = Beside(
            partners=side_tasks.task_models(context, loaded, sources.partners),
            evaluations=domains.task_models(context, task_model, sources.evaluations),
            observed=observed.task_models(context, loaded, sources.observed),
        )
    with context.stage(Stage.evaluate_dense):
        task_model, *sets = supervise(context, [task_model, *beside.evaluations.values()], reuse.evaluate)
        beside = replace(beside, evaluations=dict(zip(beside.evaluations, sets, strict=True)))
        dense = reuse.evaluate([task_model, *beside.task_models])
    with context.stage(Stage.attribute):
        ratios = schedule(furthest(job.request.target), job.request.method.steps)
        scored = (task_model, *beside.partners.values())
        paths = [reuse.path(each, ratios, partial(attribute, context, each, ratios)) for each in scored]
        path = united_paths(paths, job.request.method.union)
        task_model = side_tasks.calibrated_on_all(task_model, beside.partners.values())
    reached = reach(context, sources, task_model, dense[0], path)
    task_model, dense = reached.task_model, [reached.dense, *dense[1:]]
    with context.stage(Stage.evaluate_slim):
        slim = evaluate(context, [task_model, *beside.on(task_model.loaded)])
        speeds = time_passes(context, sources, task_model)
    measured_controls = control(context, sources, task_model, path, reached.candidate.asked)
    with context.stage(Stage.verify):
        verified = artifacts.store(context, sources, task_model, reached.groups, reached.candidate)
    with context.stage(Stage.upload):
        metrics = beside.metrics(context.task.title, dense, slim).model_copy(update={"controls": measured_controls})
        result = conclude(context, sources, reached, slim[0], metrics, speeds[0], verified)
        result = result.model_copy(update=reuse.outcome())
        found = findings.find(sources, reached, beside, dense, slim, speeds, path.at(reached.candidate.asked))
        report.write(context, sources, task_model, beside, result, found)
        artifacts.upload(context)
    return result


def attribute(context: JobContext, task_model: TaskModel, ratios: Sequence[float]) -> ScorePath:
    """Every unit's score on the calibration rows; with several steps, taken anew on what each of them leaves."""
    method, model, architecture = context.job.request.method, task_model.loaded.model, task_model.architecture
    groups, count = locate_groups(context, task_model), len(task_model.calibration.examples)
    counter = context.counter(count * method.steps)
    measures = (lambda done, step=step: counter(step * count + done) for step in range(method.steps))

    def remember(moments: dict[str, Moments]) -> None:
        """Spare a repair on the same rows its pass; what later steps see is not the dense model."""
        alone = not context.job.request.tasks
        if alone and method.repair in FITTED and not task_model.calibration.moments:
            task_model.calibration.moments.update(moments)

    def measure() -> Scores:
        batches = (batch.to(model.device) for batch in task_model.calibration.batches)
        criterion, told = method.criterion, options(context)
        with refusing_units():
            return attribution.score(
                model, architecture, method.units, batches, criterion, told, next(measures), remember
            )

    def keep(scores: Scores, ratio: float) -> dict[Site, Tensor]:
        return choose(context, groups, scores, ratio)

    return follow(model, architecture, ratios, measure, keep)


def furthest(target: Target) -> float:
    """The highest ratio that the path of scores has to serve."""
    if target.ratio is not None:
        return target.ratio
    return max(target.sweep) if target.sweep else MAX_RATIO


def reach(context: JobContext, sources: Sources, task_model: TaskModel, dense: Measured, path: ScorePath) -> Reached:
    """The cut model that meets the target. Raises TargetUnreachable."""
    request = context.job.request
    if request.target.is_measured:
        with context.stage(Stage.search):
            return targets.search(context, task_model, dense, path, partial(artifacts.store, context, sources))
    with context.stage(Stage.select):
        candidates = Candidates(context, task_model, path)
        candidate = targets.count(candidates, context)
    if request.method.repair is not Repair.none:
        with context.stage(Stage.repair):
            repair(context, task_model, candidate.kept)
    with context.stage(Stage.slice):
        slim = cut(task_model, candidate.kept, request.output.layout)
    return Reached(candidate, candidates.groups, slim, dense, rows=list(range(len(task_model.evaluation.examples))))


def repair(context: JobContext, task_model: TaskModel, kept: dict[Site, Tensor]) -> None:
    """Fit what stays to what goes. Raises InvalidRequest where the family has no place for it."""

    def advance(done: int, total: int) -> None:
        context.progress.advance(done, total, "batches")

    repair_model(context, task_model, kept, task_model.calibration.moments, advance)


def control(
    context: JobContext, sources: Sources, task_model: TaskModel, path: ScorePath, ratio: float
) -> Controls | None:
    """What other choices of the same size would have kept, where the request asks for it."""
    if not context.job.request.method.controls:
        return None
    with context.stage(Stage.controls):
        whole = controls.Dense(task_model, lambda: load(context, sources.model, sources.adapter), repair)
        return controls.measure(context, whole, path.at(ratio), ratio)


def time_passes(context: JobContext, sources: Sources, task_model: TaskModel) -> list[tuple[Speed, Speed]]:
    """The model as it came and as it is now, in turn. An adapter is left out: once merged it costs no time.

    The first of the sizes is that of the target, where it names one.
    """
    dense = loading.load(sources.model, device=torch.device("cpu")).model
    loading.cast(dense, dict.fromkeys(loading.weight_dtypes(dense), task_model.loaded.model.dtype))  # as on its device
    bound = context.job.request.target.latency_ms
    tokens = bound.tokens if bound else min(TOKENS, task_model.wording.max_tokens or TOKENS)
    rows = dict.fromkeys([bound.batch, *SIZES] if bound else SIZES)
    return compare(
        dense, task_model.loaded.model, task_model.evaluation.examples, task_model.padding, tokens, list(rows)
    )


def conclude(
    context: JobContext,
    sources: Sources,
    reached: Reached,
    slim: Measured,
    metrics: JobMetrics,
    speed: tuple[Speed, Speed],
    verified: Verified,
) -> Result:
    """What was reached, as it was counted and measured."""
    slim_bytes = validation.weight_bytes(artifacts.checkpoint(context, "model"))
    return Result(
        metrics=metrics,
        parameters=DenseSlim(dense=reached.dense.parameters, slim=slim.parameters),
        bytes=DenseSlim(dense=validation.weight_bytes(sources.model), slim=slim_bytes),
        latency_ms=Latency(
            dense=speed[0].milliseconds,
            slim=speed[1].milliseconds,
            batch=speed[0].batch,
            tokens=speed[0].tokens,
            runs=RUNS,
            device=str(reached.task_model.loaded.model.device),
        ),
        widths=findings.widths(reached.groups, reached.candidate.kept),
        ratio=reached.candidate.ratio,
        verified=verified,
        curve=reached.curve,
        kept_metric=targets.kept_metric(context, reached, slim),
    )
