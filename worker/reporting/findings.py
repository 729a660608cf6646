"""The findings that the report shows besides the result: widths by layer, changed answers, speed by batch size.

Shape suffixes: U units of a group, K kept ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from service.contract.answers.report import ChangedAnswer, Confusion, LayerWidth, Throughput
from service.contract.answers.result import DenseSlim, Widths
from service.contract.options import TaskKind, Unit
from service.models.tensors.names import EXPERT_NEURONS, SHARED_NEURONS
from worker.evaluation import answers
from worker.evaluation.latency import PassProfile
from worker.evaluation.pooling import ComparedAnswers, pooled_answers
from worker.search.chosen import ChosenModel
from worker.slimming.units.groups import VOCABULARY, Group, Site
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet, Measurements, having_role


@dataclass(frozen=True)
class Findings:
    """The fields of the same names in `service.contract.answers.report.Report`."""

    throughput: list[Throughput]
    peak_memory_bytes: DenseSlim
    layers: list[LayerWidth]
    confusion: Confusion | None
    changed: list[ChangedAnswer]


def find(
    chosen: ChosenModel,
    sets: Sequence[EvaluationSet],
    dense: Measurements,
    slim: Measurements,
    profiles: Sequence[tuple[PassProfile, PassProfile]],
    scores: Mapping[Site, Tensor],
) -> Findings:
    """The findings from the measurements of both models; `scores` are those that decided which units are kept."""
    answers_by_task = {
        each.name: compared(each, dense[each.key].given, slim[each.key].given)
        for each in having_role(sets, *SLIMMED_FOR)
    }
    confusion, changed = pooled_answers(answers_by_task)
    return Findings(
        throughput=throughput(profiles),
        peak_memory_bytes=peak_memory(profiles),
        layers=layers(chosen.groups, chosen.candidate.kept, scores),
        confusion=confusion,
        changed=changed,
    )


def throughput(profiles: Sequence[tuple[PassProfile, PassProfile]]) -> list[Throughput]:
    """Examples per second and memory of both models, for each batch size."""
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
        for dense, slim in profiles
    ]


def peak_memory(profiles: Sequence[tuple[PassProfile, PassProfile]]) -> DenseSlim:
    """Peak memory of both models in bytes, at the largest batch size."""
    dense, slim = max(profiles, key=lambda pair: pair[0].batch)
    return DenseSlim(dense=dense.peak_bytes, slim=slim.peak_bytes)


def layers(
    groups: Sequence[Group], kept: Mapping[Site, Tensor], scores: Mapping[Site, Tensor] | None
) -> list[LayerWidth]:
    """How many units each layer keeps, and their share of the layer's scores where there are scores."""
    return [
        LayerWidth(
            stack=group.site.stack,
            layer=group.site.layer,
            unit=Unit(group.kind),
            part=group.site.unit,
            dense=group.count,
            slim=kept[group.site].numel(),
            score_kept=score_kept(scores[group.site], kept[group.site]) if scores else None,
            experts_without_tokens=_without_tokens(group, scores[group.site]) if scores else None,
        )
        for group in groups
        if group.site != VOCABULARY  # which is in no layer
    ]


def _without_tokens(group: Group, score_U: Tensor) -> int | None:
    """The experts of which no neuron has a score; None for other units than their neurons."""
    if group.hook_point != "expert neurons":
        return None
    return int((score_U.view(group.rows, -1) == 0).all(1).sum())


def widths(groups: Sequence[Group], kept: Mapping[Site, Tensor]) -> list[Widths]:
    """The widths of each stack and kind of unit; for the unit `layers`, the number of layers."""
    members: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        part = group.site.unit if group.site.unit in (EXPERT_NEURONS, SHARED_NEURONS) else ""
        members.setdefault((group.site.stack, group.kind, part), []).append(group)
    return [_width(stack, Unit(kind), part, pool, kept) for (stack, kind, part), pool in sorted(members.items())]


def _width(stack: str, unit: Unit, part: str, pool: Sequence[Group], kept: Mapping[Site, Tensor]) -> Widths:
    # A layer has one width of all its experts, and the number of its experts is not that of a group.
    rows = {group.site: 1 if unit is Unit.experts else group.rows for group in pool}
    dense = [group.count // rows[group.site] for group in pool]
    slim = [kept[group.site].numel() // rows[group.site] for group in pool]
    if unit is Unit.layers:
        return Widths(stack=stack, unit=unit, dense=sum(dense), slim=sum(slim))
    own = slim if len(set(slim)) > 1 else None
    limits = [value for group in pool for _, value in group.limited]
    per_token = DenseSlim(dense=max(limits), slim=min(*limits, *slim)) if limits else None
    return Widths(
        stack=stack,
        unit=unit,
        part=part or None,
        dense=round(fmean(dense)),
        slim=round(fmean(slim)),
        per_layer=own,
        per_token=per_token,
    )


def score_kept(score_U: Tensor, kept_K: Tensor) -> float | None:
    """Sum of the kept units' scores / sum of all scores; None where some score is negative or all are zero."""
    total = score_U.double().sum().item()
    if total <= 0 or (score_U < 0).any():
        return None
    return float(score_U.double()[kept_K].sum().item() / total)


def compared(evaluation_set: EvaluationSet, dense: Sequence[str], slim: Sequence[str]) -> ComparedAnswers:
    """(the confusion matrices of both models' answers, the answers that changed)."""
    wording, rows = evaluation_set.task_model.wording, evaluation_set.task_model.evaluation
    if evaluation_set.task_model.kind in (TaskKind.regression, TaskKind.embedding, TaskKind.language_modelling):
        return None, []  # every number changes a little
    labels = list(wording.words)
    if evaluation_set.task_model.kind in (TaskKind.generation, TaskKind.multi_label, TaskKind.token_classification):
        matrices, right = None, [example.references for example in rows.examples]
    else:
        given = answers.right_labels(rows.examples, labels)
        matrices, right = answers.confusion(labels, given, dense, slim), [(label,) for label in given]
    texts = evaluation_set.rows, right, dense, slim
    return matrices, answers.changed(wording.task, *texts, answered=rows.answered)
