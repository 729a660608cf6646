"""The stages of a job, in order, each a function of what the stages before it left."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import structlog
import torch
from torch import Tensor
from transformers.utils import logging

from service import presets, report_page
from service.admission import Access, blaming
from service.checkpoints import read_checkpoint
from service.errors import InvalidModel, TaskslimError
from service.fingerprints import Fingerprints, fingerprints
from service.job_models import JOB, JobModel, job_model
from service.job_record import JobRecord
from service.layouts import has_own_widths
from service.plans import made_runtimes
from service.records import LeaseLost
from service.schemas import (
    MAX_RATIO,
    Ancestor,
    Controls,
    DenseSlim,
    Format,
    JobMetrics,
    JobRequest,
    KeptMetric,
    Latency,
    LayerWidth,
    Layout,
    Manifest,
    ModelSource,
    Repair,
    Result,
    Runtime,
    Stage,
    StoredFile,
    Target,
    Unit,
    Verified,
    Widths,
)
from service.scores import ScoreSets
from service.settings import Settings
from service.sources import scheme_of
from service.storage import Storage, attempt_prefix, digest_file, manifest_key
from worker import (
    checkpoints,
    controls,
    data,
    domains,
    findings,
    indices,
    methods,
    models,
    observed,
    outputs,
    partners,
    prompts,
    reporting,
    snippets,
    targets,
)
from worker.beside import Beside
from worker.candidates import (
    Candidate,
    Candidates,
    choose,
    cut,
    locate_groups,
    mend,
    refusing_units,
)
from worker.card import card, licence_of
from worker.findings import Findings
from worker.indices import Origin
from worker.lineage import lineage
from worker.methods import options
from worker.reuse import Reuse
from worker.rows import Row
from worker.slimming import attribution
from worker.slimming.groups import Group, Site
from worker.slimming.moments import Moments
from worker.slimming.repair import FITTED
from worker.slimming.steps import ScorePath, Scores, follow, schedule
from worker.slimming.union import united_paths
from worker.speed import RUNS, SIZES, TOKENS, Speed, compare
from worker.staging import StagedJob, StageProgress
from worker.subject import Measured, Subject, ask, evaluate, load
from worker.supervision import supervise
from worker.targets import Reached

log = structlog.get_logger()


@dataclass(frozen=True)
class Sources:
    """What the request names, on this machine."""

    model: Path
    adapter: Path | None
    calibration: list[Row]
    evaluation: list[Row]
    partners: list[partners.TaskRows]
    evaluations: dict[str, list[Row]]
    observed: list[list[Row]]
    digests: dict[str, str]  # of model and adapter
    lineage: list[Ancestor]
    fingerprints: Fingerprints | None


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
    removes it, and what a failed attempt has stored. Raises the errors of `service.errors` for what the user can
    change, LeaseLost where another attempt has left its manifest, and whatever `progress` raises.
    """
    logging.disable_progress_bar()
    staged = StagedJob(job, presets.resolve(job.request.slimmed_for[0]), settings, storage, progress, scratch)
    with staged.stage(Stage.fetch):
        sources = fetch(staged)
    reuse = Reuse(staged, sources.digests, sources.fingerprints, scores)
    with staged.stage(Stage.load):
        loaded = load(staged, sources.model, sources.adapter)
        subject = ask(staged, loaded, staged.task, sources.calibration, sources.evaluation)
        beside = Beside(
            partners=partners.subjects(staged, loaded, sources.partners),
            evaluations=domains.subjects(staged, subject, sources.evaluations),
            observed=observed.subjects(staged, loaded, sources.observed),
        )
    with staged.stage(Stage.evaluate_dense):
        subject, *sets = supervise(staged, [subject, *beside.evaluations.values()], reuse.evaluate)
        beside = replace(beside, evaluations=dict(zip(beside.evaluations, sets, strict=True)))
        dense = reuse.evaluate([subject, *beside.subjects])
    with staged.stage(Stage.attribute):
        ratios = schedule(furthest(job.request.target), job.request.method.steps)
        scored = (subject, *beside.partners.values())
        paths = [reuse.path(each, ratios, partial(attribute, staged, each, ratios)) for each in scored]
        path = united_paths(paths, job.request.method.union)
        subject = partners.calibrated_on_all(subject, beside.partners.values())
    reached = reach(staged, sources, subject, dense[0], path)
    subject, dense, kept = reached.subject, [reached.dense, *dense[1:]], reached.candidate.kept
    with staged.stage(Stage.evaluate_slim):
        slim = evaluate(staged, [subject, *beside.on(subject.loaded)])
        speeds = time_passes(staged, sources, subject)
    measured_controls = control(staged, sources, subject, path, reached.candidate.asked)
    layers = findings.layers(reached.groups, kept, path.at(reached.candidate.asked))
    with staged.stage(Stage.verify):
        verified = store(staged, sources, subject, reached.groups, reached.candidate)
    with staged.stage(Stage.upload):
        slim_bytes = checkpoints.weight_bytes(outputs.checkpoint(staged, "model"))
        size = DenseSlim(dense=checkpoints.weight_bytes(sources.model), slim=slim_bytes)
        metrics = beside.metrics(staged.task.title, dense, slim).model_copy(update={"controls": measured_controls})
        parameters = DenseSlim(dense=dense[0].parameters, slim=slim[0].parameters)
        kept_metric = targets.kept_metric(staged, reached, slim[0])
        result = conclude(reached, metrics, parameters, speeds[0], size, verified, kept_metric)
        result = result.model_copy(update=reuse.outcome())
        found = find(sources, reached, beside, dense, slim, speeds, layers)
        write_report(staged, sources, subject, beside, result, found)
        upload(staged)
    return result


def fetch(staged: StagedJob) -> Sources:
    """Bring model, adapter and rows here; rows first, since they are small and as likely to be wrong."""
    request, roots = staged.job.request, staged.settings.local_roots
    options(staged)  # refuses what the task cannot serve before anything is fetched
    location = data.Location(staged.storage, staged.job.tenant, staged.scratch / "rows", roots)
    calibration, evaluation_rows = data.load_rows(staged.task, location)
    others_of_union = partners.read(request.placed_tasks, location)
    sets = domains.read(staged.task, location)
    others = observed.read(request.observe, location)
    cache = staged.settings.state / "cache"
    left, ancestors = left_by_job(staged)
    model = models.fetch(
        request.model, scratch=staged.scratch, cache=cache, roots=roots, on_bytes=staged.on_bytes, left=left
    )
    uri, adapter = request.model.adapter_uri, None
    if uri:
        adapter = models.fetch_adapter(uri, scratch=staged.scratch, roots=roots, on_bytes=staged.on_bytes)
    parts = {"model": model} | ({"adapter": adapter} if adapter else {})
    return Sources(
        model=model,
        adapter=adapter,
        calibration=calibration,
        evaluation=evaluation_rows,
        partners=others_of_union,
        evaluations=sets,
        observed=others,
        digests={name: reporting.digest_directory(directory) for name, directory in parts.items()},
        lineage=ancestors,
        fingerprints=fingerprints_of(staged),
    )


def fingerprints_of(staged: StagedJob) -> Fingerprints | None:
    """What a plan of the same request will look for; None where a source, fetched once, cannot be looked at again."""
    try:
        return fingerprints(
            staged.job.request, Access(staged.storage, staged.job.tenant, True, staged.settings.local_roots)
        )
    except TaskslimError:
        log.info("no plan will find the scores of this job", exc_info=True)
        return None


def left_by_job(staged: StagedJob) -> tuple[JobModel | None, list[Ancestor]]:
    """(the model, the jobs that led to it) where the request names a job of the tenant. Raises InvalidModel."""
    uri = staged.job.request.model.uri
    if scheme_of(uri) != JOB:
        return None, []
    with blaming("model.uri", InvalidModel):
        left = job_model(uri, staged.storage, staged.job.tenant)
        return left, lineage(left)


def attribute(staged: StagedJob, subject: Subject, ratios: Sequence[float]) -> ScorePath:
    """Every unit's score on the calibration rows; with several steps, taken anew on what each of them leaves."""
    method, model, architecture = staged.job.request.method, subject.loaded.model, subject.architecture
    groups, count = locate_groups(staged, subject), len(subject.calibration.examples)
    counter = staged.counter(count * method.steps)
    measures = (lambda done, step=step: counter(step * count + done) for step in range(method.steps))

    def remember(moments: dict[str, Moments]) -> None:
        """Spare a repair on the same rows its pass; what later steps see is not the dense model."""
        alone = not staged.job.request.tasks
        if alone and method.repair in FITTED and not subject.calibration.moments:
            subject.calibration.moments.update(moments)

    def measure() -> Scores:
        batches = (batch.to(model.device) for batch in subject.calibration.batches)
        criterion, told = method.criterion, options(staged)
        with refusing_units():
            return attribution.score(
                model, architecture, method.units, batches, criterion, told, next(measures), remember
            )

    def keep(scores: Scores, ratio: float) -> dict[Site, Tensor]:
        return choose(staged, groups, scores, ratio)

    return follow(model, architecture, ratios, measure, keep)


def furthest(target: Target) -> float:
    """The highest ratio that the path of scores has to serve."""
    if target.ratio is not None:
        return target.ratio
    return max(target.sweep) if target.sweep else MAX_RATIO


def reach(staged: StagedJob, sources: Sources, subject: Subject, dense: Measured, path: ScorePath) -> Reached:
    """The cut model that meets the target. Raises TargetUnreachable."""
    request = staged.job.request
    if request.target.is_measured:
        with staged.stage(Stage.search):
            return targets.search(staged, subject, dense, path, partial(store, staged, sources))
    with staged.stage(Stage.select):
        candidates = Candidates(staged, subject, path)
        candidate = targets.count(candidates, staged)
    if request.method.repair is not Repair.none:
        with staged.stage(Stage.repair):
            repair(staged, subject, candidate.kept)
    with staged.stage(Stage.slice):
        slim = cut(subject, candidate.kept, request.output.layout)
    return Reached(candidate, candidates.groups, slim, dense, rows=list(range(len(subject.evaluation.examples))))


def repair(staged: StagedJob, subject: Subject, kept: dict[Site, Tensor]) -> None:
    """Fit what stays to what goes. Raises InvalidRequest where the family has no place for it."""

    def advance(done: int, total: int) -> None:
        staged.progress.advance(done, total, "batches")

    mend(staged, subject, kept, subject.calibration.moments, advance)


def control(staged: StagedJob, sources: Sources, subject: Subject, path: ScorePath, ratio: float) -> Controls | None:
    """What other choices of the same size would have kept, where the request asks for it."""
    if not staged.job.request.method.controls:
        return None
    with staged.stage(Stage.controls):
        whole = controls.Dense(subject, lambda: load(staged, sources.model, sources.adapter), repair)
        return controls.measure(staged, whole, path.at(ratio), ratio)


def time_passes(staged: StagedJob, sources: Sources, subject: Subject) -> list[tuple[Speed, Speed]]:
    """The model as it came and as it is now, in turn. An adapter is left out: once merged it costs no time.

    The first of the sizes is that of the target, where it names one.
    """
    dense = models.load(sources.model, device=torch.device("cpu")).model
    models.cast(dense, dict.fromkeys(models.weight_dtypes(dense), subject.loaded.model.dtype))  # as on its device
    bound = staged.job.request.target.latency_ms
    tokens = bound.tokens if bound else min(TOKENS, subject.wording.max_tokens or TOKENS)
    rows = dict.fromkeys([bound.batch, *SIZES] if bound else SIZES)
    return compare(dense, subject.loaded.model, subject.evaluation.examples, subject.padding, tokens, list(rows))


def conclude(
    reached: Reached,
    metrics: JobMetrics,
    parameters: DenseSlim,
    speed: tuple[Speed, Speed],
    size: DenseSlim,
    verified: Verified,
    kept_metric: KeptMetric | None,
) -> Result:
    """What was reached, as it was counted and measured."""
    return Result(
        metrics=metrics,
        parameters=parameters,
        bytes=size,
        latency_ms=Latency(
            dense=speed[0].milliseconds,
            slim=speed[1].milliseconds,
            batch=speed[0].batch,
            tokens=speed[0].tokens,
            runs=RUNS,
            device=str(reached.subject.loaded.model.device),
        ),
        widths=_widths(reached.groups, reached.candidate.kept),
        ratio=reached.candidate.ratio,
        verified=verified,
        curve=reached.curve,
        kept_metric=kept_metric,
    )


def find(
    sources: Sources,
    reached: Reached,
    beside: Beside,
    dense: list[Measured],
    slim: list[Measured],
    speeds: list[tuple[Speed, Speed]],
    layers: list[LayerWidth],
) -> Findings:
    """What the report shows beside the result."""
    subjects = [reached.subject, *beside.partners.values()]
    rows = [[sources.evaluation[row] for row in reached.rows], *(partner.evaluation for partner in sources.partners)]
    compared = [
        findings.compared(each.wording, of, each.evaluation.examples, before.answers, now.answers)
        for each, of, before, now in zip(subjects, rows, dense, slim, strict=False)
    ]
    confusion, changed = partners.together(compared, [each.wording.task.title for each in subjects])
    return Findings(
        throughput=findings.throughput(speeds),
        peak_memory_bytes=findings.peak_memory(speeds),
        layers=layers,
        confusion=confusion,
        changed=changed,
    )


def store(
    staged: StagedJob, sources: Sources, slim: Subject, groups: list[Group], candidate: Candidate, name: str = ""
) -> Verified:
    """Write a cut model's checkpoint and the indices that it keeps, and prove it: `model` and `kept`, with a `name`
    `model-0.3` and `kept-0.3`. Raises VerificationFailed."""
    directory = outputs.checkpoint(staged, f"model{name}")
    verified = outputs.write(staged, slim, directory)
    made = origin(staged, sources, slim, _widths(groups, candidate.kept), directory)
    indices.save(candidate.kept, made, outputs.directory(staged) / f"kept{name}.safetensors")
    return verified


def write_report(
    staged: StagedJob, sources: Sources, subject: Subject, beside: Beside, result: Result, found: Findings
) -> None:
    """Write the report beside the checkpoint, for programs and for people, and the model card into it."""
    digests = sources.digests | {
        "calibration": reporting.digest_rows(sources.calibration),
        "evaluation": reporting.digest_rows(sources.evaluation),
        "template": reporting.digest_text(staged.task.template or ""),
    }
    for partner in sources.partners:
        digests[f"calibration of {partner.task.title}"] = reporting.digest_rows(partner.calibration)
        digests[f"evaluation of {partner.task.title}"] = reporting.digest_rows(partner.evaluation)
    digests |= {f"evaluations {name}": reporting.digest_rows(rows) for name, rows in sources.evaluations.items()}
    for task, rows in zip(staged.job.request.observe, sources.observed, strict=True):
        digests[f"observed {task.title}"] = reporting.digest_rows(rows)
    report = reporting.build(
        staged.job,
        task=prompts.as_run(subject.wording),
        tasks={title: prompts.as_run(each.wording) for title, each in beside.tasks(subject).items()},
        family=subject.loaded.family,
        result=result,
        options=methods.in_force(staged),
        calibration_examples=len(subject.calibration.examples),
        shortened_prompts=subject.calibration.shortened
        + sum(each.evaluation.shortened for each in (subject, *beside.partners.values())),
        own_answers=subject.own_answers,
        timings=staged.timings,
        digests=digests,
        lineage=sources.lineage,
        snippet=snippet(staged.job.request, result, subject),
        findings=found,
        loads=loadable(outputs.checkpoint(staged, "model"), staged, result),
    )
    output = staged.scratch / "output"
    (output / "report.json").write_text(report.model_dump_json(indent=2))
    (output / "report.html").write_text(report_page.render(report))
    if Format.safetensors in staged.job.request.output.formats:
        licence = licence_of(sources.model)
        (output / "model" / "README.md").write_text(card(report, licence))
        for point in result.curve:
            if point.artifact not in (None, "model"):
                (output / str(point.artifact) / "README.md").write_text(card(report, licence, point))


def snippet(request: JobRequest, result: Result, subject: Subject) -> str:
    """Python that loads the checkpoint and asks it; of a union, the first of its tasks."""
    auto_class = models.AUTO_CLASSES[subject.loaded.family.kind].__name__
    return snippets.snippet(request, auto_class, has_own_widths(result), subject.wording, subject.padding)


def loadable(directory: Path, staged: StagedJob, result: Result) -> list[Runtime]:
    """Which runtimes load the checkpoint that was made."""
    layout = Layout.per_layer if has_own_widths(result) else Layout.uniform
    access = Access(staged.storage, staged.job.tenant, True)
    checkpoint = read_checkpoint(ModelSource(uri=directory.resolve().as_uri()), access)
    return made_runtimes(checkpoint, staged.job.request.method.units, layout)


def origin(staged: StagedJob, sources: Sources, subject: Subject, widths: list[Widths], directory: Path) -> Origin:
    """What the kept indices are of, and the checkpoint in `directory` that they make of it."""
    request = staged.job.request
    return Origin(
        model=request.model,
        model_digest=sources.digests["model"],
        adapter_digest=sources.digests.get("adapter"),
        family=subject.loaded.family.model_type,
        units=request.method.units,
        layout=request.output.layout,
        repair=request.method.repair,
        widths=widths,
        weights=indices.digests(directory),
        versions=reporting.versions(),
    )


def upload(staged: StagedJob) -> None:
    """Store every file of the output, then the manifest, which makes them the job's result."""
    root = staged.scratch / "output"
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    total, done, files = sum(path.stat().st_size for path in paths), 0, []
    for path in paths:
        name, size = str(path.relative_to(root)), path.stat().st_size
        staged.storage.put_file(path, _prefix(staged) + name)
        files.append(StoredFile(name=name, size=size, sha256=digest_file(path)))
        done += size
        staged.on_bytes(done, total)
    manifest = Manifest(job_id=staged.job.id, attempt=staged.job.attempt, files=files)
    key = manifest_key(staged.job.tenant, staged.job.id)
    if not staged.storage.put_if_absent(manifest.model_dump_json().encode(), key):
        raise LeaseLost(f"another attempt of job {staged.job.id} has left its manifest")


def _prefix(staged: StagedJob) -> str:
    return attempt_prefix(staged.job.tenant, staged.job.id, staged.job.attempt)


def _widths(groups: list[Group], kept: dict[Site, Tensor]) -> list[Widths]:
    """One entry for each stack and unit. Of layers, how many there are."""
    members: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        members.setdefault((group.site.stack, group.kind), []).append(group)
    return [_width(stack, Unit(kind), pool, kept) for (stack, kind), pool in sorted(members.items())]


def _width(stack: str, unit: Unit, pool: list[Group], kept: dict[Site, Tensor]) -> Widths:
    dense = [group.count // group.rows for group in pool]
    slim = [kept[group.site].numel() // group.rows for group in pool]
    if unit is Unit.layers:
        return Widths(stack=stack, unit=unit, dense=sum(dense), slim=sum(slim))
    own = slim if len(set(slim)) > 1 else None
    return Widths(stack=stack, unit=unit, dense=round(fmean(dense)), slim=round(fmean(slim)), per_layer=own)
