"""What the report shows beside the result: layer by layer, answer by answer, at several batch sizes.

Shape suffixes: U units of a group, K kept ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from service.schemas import ChangedAnswer, Confusion, DenseSlim, LayerWidth, TaskKind, Throughput, Unit
from worker import answers
from worker.prompts import Example, Wording
from worker.rows import Row
from worker.slimming.groups import Group, Site
from worker.speed import Speed


@dataclass(frozen=True)
class Findings:
    """See the fields of `service.schemas.Report`."""

    throughput: list[Throughput]
    peak_memory_bytes: DenseSlim
    layers: list[LayerWidth]
    confusion: Confusion | None
    changed: list[ChangedAnswer]


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
