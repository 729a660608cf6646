"""The stages of a job, in order, each a function of what the stages before it left."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from transformers.utils import logging

from service import presets, report_page
from service.admission import Access, blaming
from service.errors import InvalidModel, InvalidRequest, TargetUnreachable, UnsupportedUnit
from service.fingerprints import fingerprint
from service.job_models import JOB, JobModel, job_model
from service.job_record import JobRecord
from service.records import LeaseLost
from service.schemas import (
    Ancestor,
    DenseSlim,
    Format,
    JobMetrics,
    Latency,
    LayerWidth,
    Layout,
    Manifest,
    Objective,
    Repair,
    Result,
    Stage,
    StoredFile,
    TaskKind,
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
    cutting,
    data,
    domains,
    findings,
    indices,
    models,
    observed,
    prompts,
    reporting,
    verification,
)
from worker.card import card
from worker.findings import Findings
from worker.indices import Origin
from worker.lineage import lineage
from worker.reuse import Reuse
from worker.rows import Row
from worker.slimming import attribution, selection
from worker.slimming import repair as repairs
from worker.slimming.allocation import Rules, share_removed
from worker.slimming.criteria import CRITERIA, Options
from worker.slimming.groups import Group, Site, UnitUnavailable, locate
from worker.slimming.steps import ScorePath, Scores, follow, schedule
from worker.speed import RUNS, Speed, compare
from worker.staging import StagedJob, StageProgress
from worker.subject import Measured, Subject, ask, evaluate, load
from worker.supervision import supervise

PROBE_EXAMPLES = 4


@dataclass(frozen=True)
class Sources:
    """What the request names, on this machine."""

    model: Path
    adapter: Path | None
    calibration: list[Row]
    evaluation: list[Row]
    evaluations: dict[str, list[Row]]
    observed: list[list[Row]]
    digests: dict[str, str]  # of model and adapter
    lineage: list[Ancestor]
    fingerprint: str


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
    staged = StagedJob(job, presets.resolve(job.request.task), settings, storage, progress, scratch)
    with staged.stage(Stage.fetch):
        sources = fetch(staged)
    reuse = Reuse(staged, sources.digests, sources.fingerprint, scores)
    with staged.stage(Stage.load):
        loaded = load(staged, sources.model, sources.adapter)
        subject = ask(staged, loaded, staged.task, sources.calibration, sources.evaluation)
        sets = domains.subjects(staged, subject, sources.evaluations)
        others = observed.subjects(staged, loaded, sources.observed)
    with staged.stage(Stage.evaluate_dense):
        subject, *sets = supervise(staged, [subject, *sets], reuse.evaluate)
        dense, *others_dense = reuse.evaluate([subject, *sets, *others])
    with staged.stage(Stage.attribute):
        ratios = schedule(job.request.target.ratio, job.request.method.steps)
        path = reuse.path(subject, ratios, lambda: attribute(staged, subject, ratios))
    with staged.stage(Stage.select):
        groups, kept = select(staged, subject, path)
    if job.request.method.repair is not Repair.none:
        with staged.stage(Stage.repair):
            repair(staged, subject, kept)
    with staged.stage(Stage.slice):
        subject = cut(subject, kept, job.request.output.layout)
    with staged.stage(Stage.evaluate_slim):
        others = [replace(other, loaded=subject.loaded) for other in (*sets, *others)]
        slim, *others_slim = evaluate(staged, [subject, *others])
        speeds = time_passes(sources, subject)
    layers = findings.layers(groups, kept, path.at(job.request.target.ratio))
    output = staged.scratch / "output"
    output.mkdir()
    with staged.stage(Stage.verify):
        directory = (output if Format.safetensors in job.request.output.formats else staged.scratch) / "model"
        models.save(subject.loaded, directory)
        verified = verify(staged, subject, directory)
    with staged.stage(Stage.upload):
        size = DenseSlim(dense=checkpoints.weight_bytes(sources.model), slim=checkpoints.weight_bytes(directory))
        metrics = JobMetrics(
            dense=dense.metrics,
            slim=slim.metrics,
            evaluations=domains.pairs(sources.evaluations, others_dense[: len(sets)], others_slim[: len(sets)]),
            observed=observed.pairs(job.request.observe, others_dense[len(sets) :], others_slim[len(sets) :]),
        )
        parameters = DenseSlim(dense=dense.parameters, slim=slim.parameters)
        result = conclude(subject, metrics, parameters, speeds[0], size, groups, kept, verified)
        result = result.model_copy(update=reuse.outcome())
        write_report(staged, sources, subject, result, find(sources, subject, dense, slim, speeds, layers))
        indices.save(kept, origin(staged, sources, subject, result, directory), output / "kept.safetensors")
        upload(staged)
    return result


def fetch(staged: StagedJob) -> Sources:
    """Bring model, adapter and rows here; rows first, since they are small and as likely to be wrong."""
    request, roots = staged.job.request, staged.settings.local_roots
    options(staged)  # refuses what the task cannot serve before anything is fetched
    location = data.Location(staged.storage, staged.job.tenant, staged.scratch / "rows", roots)
    calibration, evaluation_rows = data.load_rows(staged.task, location)
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
        evaluations=sets,
        observed=others,
        digests={name: reporting.digest_directory(directory) for name, directory in parts.items()},
        lineage=ancestors,
        fingerprint=fingerprint(request, Access(staged.storage, staged.job.tenant, True, roots)),
    )


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
    groups, count = _groups(staged, subject), len(subject.calibration.examples)
    counter = staged.counter(count * method.steps)
    measures = (lambda done, step=step: counter(step * count + done) for step in range(method.steps))

    def measure() -> Scores:
        batches = (batch.to(model.device) for batch in subject.calibration.batches)
        criterion, told = method.criterion, options(staged)
        with _refusing_units():
            return attribution.score(model, architecture, method.units, batches, criterion, told, next(measures))

    def choose(scores: Scores, ratio: float) -> dict[Site, Tensor]:
        return _choose(staged, groups, scores, ratio)

    return follow(model, architecture, ratios, measure, choose)


def options(staged: StagedJob) -> Options:
    """What the criterion is told. Raises InvalidRequest for an objective that the task cannot serve."""
    method, kind = staged.job.request.method, staged.task.kind
    objective = method.objective or (Objective.log_probability if kind is TaskKind.generation else Objective.margin)
    if objective is Objective.margin and kind is TaskKind.generation:
        raise InvalidRequest("a generation task has no wrong labels to take a margin to", param="method.objective")
    asked = Options(
        objective=objective.value,
        token_reduction=method.token_reduction.value,
        sign=method.sign.value,
        example_reduction=method.example_reduction.value,
        seed=method.seed,
    )
    return CRITERIA[method.criterion].options(asked)


def select(staged: StagedJob, subject: Subject, path: ScorePath) -> tuple[list[Group], dict[Site, Tensor]]:
    """(all groups, what stays of each). Raises TargetUnreachable where rounding or a floor forbids the ratio."""
    groups, ratio = _groups(staged, subject), staged.job.request.target.ratio
    try:
        return groups, _choose(staged, groups, path.at(ratio), ratio)
    except selection.WidthUnreachable as error:
        raise TargetUnreachable(
            f"{error}: ask for a lower ratio or a smaller round_to", param="target.ratio"
        ) from error


def _groups(staged: StagedJob, subject: Subject) -> list[Group]:
    with _refusing_units():
        return locate(subject.loaded.model, subject.architecture, staged.job.request.method.units)


@contextmanager
def _refusing_units() -> Iterator[None]:
    try:
        yield
    except UnitUnavailable as error:
        raise UnsupportedUnit(str(error), param="method.units") from error


def _choose(staged: StagedJob, groups: list[Group], scores: Scores, ratio: float) -> dict[Site, Tensor]:
    method, output = staged.job.request.method, staged.job.request.output
    rules = Rules(
        scope=method.scope,
        layout=output.layout,
        normalisation=method.normalisation,
        protect_first=method.protect_first,
        protect_last=method.protect_last,
    )
    return selection.select(scores, groups, ratio, output.round_to, rules)


def repair(staged: StagedJob, subject: Subject, kept: dict[Site, Tensor]) -> None:
    """Fit what stays to what goes, on the calibration rows. Raises InvalidRequest where the family has no place."""
    model = subject.loaded.model
    batches = [batch.to(model.device) for batch in subject.calibration.batches]
    rows, method = repairs.Rows(batches, options(staged).objective), staged.job.request.method.repair

    def advance(done: int, total: int) -> None:
        staged.progress.advance(done, total, "batches")

    try:
        repairs.repair(model, subject.architecture, kept, rows, method, advance)
    except repairs.RepairUnavailable as error:
        raise InvalidRequest(f"{error}: choose another repair", param="method.repair") from error


def cut(subject: Subject, kept: dict[Site, Tensor], layout: Layout) -> Subject:
    """The subject with its model cut, as the class that can hold it."""
    return replace(subject, loaded=cutting.cut(subject.loaded, kept, layout))


def time_passes(sources: Sources, subject: Subject) -> list[tuple[Speed, Speed]]:
    """The model as it came and as it is now, in turn. An adapter is left out: once merged it costs no time."""
    dense = models.load(sources.model, device=torch.device("cpu")).model
    examples = subject.evaluation.examples
    return compare(dense, subject.loaded.model, examples, subject.padding, subject.wording.max_tokens)


def verify(staged: StagedJob, subject: Subject, directory: Path) -> Verified:
    """Prove the written checkpoint equal to the model in memory on some of the evaluation rows."""
    loaded, probe = subject.loaded, staged.scratch / "probe.safetensors"
    examples = subject.evaluation.examples[:PROBE_EXAMPLES]
    batch = data.batches(examples, subject.padding, staged.settings.tokens_per_batch)[0]
    verification.write_probe(loaded.model, batch.inputs, probe)
    return verification.verify(
        directory, probe, while_waiting=lambda: staged.progress.advance(0, len(batch.example_B), "rows")
    )


def conclude(
    subject: Subject,
    metrics: JobMetrics,
    parameters: DenseSlim,
    speed: tuple[Speed, Speed],
    size: DenseSlim,
    groups: list[Group],
    kept: dict[Site, Tensor],
    verified: Verified,
) -> Result:
    """What was reached, as it was counted and measured."""
    counts = {site: kept_K.numel() for site, kept_K in kept.items()}
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
            device=str(subject.loaded.model.device),
        ),
        widths=_widths(groups, kept),
        ratio=share_removed(groups, counts),
        verified=verified,
    )


def find(
    sources: Sources,
    subject: Subject,
    dense: Measured,
    slim: Measured,
    speeds: list[tuple[Speed, Speed]],
    layers: list[LayerWidth],
) -> Findings:
    """What the report shows beside the result."""
    confusion, changed = findings.compared(
        subject.wording, sources.evaluation, subject.evaluation.examples, dense.answers, slim.answers
    )
    return Findings(
        throughput=findings.throughput(speeds),
        peak_memory_bytes=findings.peak_memory(speeds),
        layers=layers,
        confusion=confusion,
        changed=changed,
    )


def write_report(staged: StagedJob, sources: Sources, subject: Subject, result: Result, found: Findings) -> None:
    """Write the report beside the checkpoint, for programs and for people, and the model card into it."""
    digests = sources.digests | {
        "calibration": reporting.digest_rows(sources.calibration),
        "evaluation": reporting.digest_rows(sources.evaluation),
        "template": reporting.digest_text(staged.task.template or ""),
    }
    digests |= {f"evaluations {name}": reporting.digest_rows(rows) for name, rows in sources.evaluations.items()}
    for task, rows in zip(staged.job.request.observe, sources.observed, strict=True):
        digests[f"observed {task.title}"] = reporting.digest_rows(rows)
    report = reporting.build(
        staged.job,
        task=prompts.as_run(subject.wording),
        family=subject.loaded.family,
        result=result,
        options={"criterion": staged.job.request.method.criterion.value, **vars(options(staged))},
        calibration_examples=len(subject.calibration.examples),
        shortened_prompts=subject.calibration.shortened + subject.evaluation.shortened,
        own_answers=subject.own_answers,
        timings=staged.timings,
        digests=digests,
        lineage=sources.lineage,
        auto_class=models.AUTO_CLASSES[subject.loaded.family.kind].__name__,
        findings=found,
    )
    output = staged.scratch / "output"
    (output / "report.json").write_text(report.model_dump_json(indent=2))
    (output / "report.html").write_text(report_page.render(report))
    if Format.safetensors in staged.job.request.output.formats:
        (output / "model" / "README.md").write_text(card(report))


def origin(staged: StagedJob, sources: Sources, subject: Subject, result: Result, directory: Path) -> Origin:
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
        widths=result.widths,
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
