"""What the report shows beside the result: layer by layer, answer by answer, at several batch sizes.

Shape suffixes: U units of a group, K kept ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from service.contract.options import TaskKind, Unit
from service.contract.report import ChangedAnswer, Confusion, LayerWidth, Throughput
from service.contract.result import DenseSlim, Widths
from service.contract.rows import Row
from worker.data.prompts import Example, Wording
from worker.evaluation import answers
from worker.evaluation.latency import Speed
from worker.search.targets import Reached
from worker.slimming.units import Group, Site
from worker.stages import side_tasks
from worker.stages.beside import Beside
from worker.stages.inputs import Sources
from worker.stages.task_model import Measured


@dataclass(frozen=True)
class Findings:
    """See the fields of `service.contract.fields.Report`."""

    throughput: list[Throughput]
    peak_memory_bytes: DenseSlim
    layers: list[LayerWidth]
    confusion: Confusion | None
    changed: list[ChangedAnswer]


def find(
    sources: Sources,
    reached: Reached,
    beside: Beside,
    dense: Sequence[Measured],
    slim: Sequence[Measured],
    speeds: Sequence[tuple[Speed, Speed]],
    scores: Mapping[Site, Tensor],
) -> Findings:
    """What the report shows beside the result; `scores` are those that decided what is kept."""
    task_models = [reached.task_model, *beside.partners.values()]
    rows = [[sources.evaluation[row] for row in reached.rows], *(partner.evaluation for partner in sources.partners)]
    answered = [
        compared(each.wording, of, each.evaluation.examples, before.answers, now.answers)
        for each, of, before, now in zip(task_models, rows, dense, slim, strict=False)
    ]
    confusion, changed = side_tasks.together(answered, [each.wording.task.title for each in task_models])
    return Findings(
        throughput=throughput(speeds),
        peak_memory_bytes=peak_memory(speeds),
        layers=layers(reached.groups, reached.candidate.kept, scores),
        confusion=confusion,
        changed=changed,
    )


def throughput(speeds: Sequence[tuple[Speed, Speed]]) -> list[Throughput]:
    """Examples a second and memory before and after, for each size."""
    return [
        Throughput(
            batch=dense.batch,
            tokens=dense.tokens,
            dense=dense.batch / dense.milliseconds * 1000,
            slim=slim.batch / slim.milliseconds * 1000,
            dense_ms=dense.milliseconds,
            slim_ms=slim.milliseconds,
            peak_memory_bytes=DenseSlim(dense=dense.peak_bytes, slim=slim.peak_bytes),
        )
        for dense, slim in speeds
    ]


def peak_memory(speeds: Sequence[tuple[Speed, Speed]]) -> DenseSlim:
    """Bytes before and after, of the largest pass."""
    dense, slim = max(speeds, key=lambda pair: pair[0].batch)
    return DenseSlim(dense=dense.peak_bytes, slim=slim.peak_bytes)


def layers(
    groups: Sequence[Group], kept: Mapping[Site, Tensor], scores: Mapping[Site, Tensor] | None
) -> list[LayerWidth]:
    """What each layer keeps of each unit, and of their scores where there are any."""
    return [
        LayerWidth(
            stack=group.site.stack,
            layer=group.site.layer,
            unit=Unit(group.kind),
            part=group.site.unit,
            dense=group.count,
            slim=kept[group.site].numel(),
            score_kept=score_kept(scores[group.site], kept[group.site]) if scores else None,
        )
        for group in groups
    ]


def widths(groups: Sequence[Group], kept: Mapping[Site, Tensor]) -> list[Widths]:
    """One entry for each stack and kind of unit. Of layers, how many there are."""
    members: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        members.setdefault((group.site.stack, group.kind), []).append(group)
    return [_width(stack, Unit(kind), pool, kept) for (stack, kind), pool in sorted(members.items())]


def _width(stack: str, unit: Unit, pool: Sequence[Group], kept: Mapping[Site, Tensor]) -> Widths:
    dense = [group.count // group.rows for group in pool]
    slim = [kept[group.site].numel() // group.rows for group in pool]
    if unit is Unit.layers:
        return Widths(stack=stack, unit=unit, dense=sum(dense), slim=sum(slim))
    own = slim if len(set(slim)) > 1 else None
    return Widths(stack=stack, unit=unit, dense=round(fmean(dense)), slim=round(fmean(slim)), per_layer=own)


def score_kept(score_U: Tensor, kept_K: Tensor) -> float | None:
    """sum of the kept units' scores / sum of all; None where some are negative or all are zero, and it is no share."""
    total = score_U.double().sum().item()
    if total <= 0 or (score_U < 0).any():
        return None
    return float(score_U.double()[kept_K].sum().item() / total)


def compared(
    wording: Wording, rows: Sequence[Row], examples: Sequence[Example], dense: Sequence[str], slim: Sequence[str]
) -> tuple[Confusion | None, list[ChangedAnswer]]:
    """(both models' answers by label, every answer that changed)."""
    if wording.task.kind is TaskKind.generation:
        right = [example.text for example in examples]
        return None, answers.changed(wording.task, rows, right, dense, slim)
    labels = list(wording.words)
    right = answers.right_labels(examples, labels)
    matrix = answers.confusion(labels, right, dense, slim)
    return matrix, answers.changed(wording.task, rows, right, dense, slim)
