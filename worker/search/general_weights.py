"""A comparison of general weights: models of one size, each measured on the task and on general rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from worker.evaluation.sequential import Comparison, SequentialTest
from worker.search.candidates import Candidate, Candidates
from worker.search.chosen import ChosenModel
from worker.search.counted import counted_candidate
from worker.search.search_context import SearchContext, SlimCopy
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.context import JobContext
from worker.stages.scores.dial import Setting
from worker.stages.task_model import Measured, TaskModel


@dataclass(frozen=True)
class ComparedWeights:
    """The settings that are compared, and general rows with the dense model's answers to them."""

    settings: Sequence[Setting]
    general: TaskModel
    dense: Measured


def compare_weights(
    context: JobContext, task_model: TaskModel, dense: Measured, path: ScorePath, compared: ComparedWeights
) -> ChosenModel:
    """Measure a model with each weight. That of `method.general_weight` is the job's own model.

    Raises TargetUnreachable for a ratio that no model has.
    """
    own = SearchContext.begin(context, task_model, dense, path)
    own.curve.expect(len(compared.settings))
    test, on_general = own.test_on(own.all_rows), _test_on_general(compared)
    chosen: tuple[Candidate, SlimCopy] | None = None
    for setting in compared.settings:
        search = _with_setting(own, setting)
        candidate = counted_candidate(search.candidates, context.job.request.target)
        slim = search.slim_copy(candidate)
        found = test.measure(search.answers_of(slim.judged, test))
        kept = _on_general(search, slim, compared.general, on_general).kept
        own.curve.add(
            candidate,
            setting.weight,
            examples=len(test.examples),
            metric=found.kept.metric,
            share=found.kept.share,
            collapse=found.collapse,
            general_weight=setting.weight,
            general=kept.metric,
            general_share=kept.share,
        )
        if setting.weight == context.job.request.method.general_weight:
            chosen = candidate, slim
    assert chosen is not None
    return own.chosen(*chosen, own.all_rows)


def _with_setting(own: SearchContext, setting: Setting) -> SearchContext:
    candidates = Candidates(setting.context, setting.task_model, setting.path, own.curve.report_progress)
    return replace(own, context=setting.context, task_model=setting.task_model, candidates=candidates)


def _test_on_general(compared: ComparedWeights) -> SequentialTest:
    examples = compared.general.evaluation.examples
    return SequentialTest(compared.general.metric, examples, compared.dense.answers, list(range(len(examples))))


def _on_general(search: SearchContext, slim: SlimCopy, general: TaskModel, test: SequentialTest) -> Comparison:
    """What a cut model keeps on general rows, with label offsets of their own where they have labels."""
    asked = search.with_offsets(replace(general, loaded=slim.cut.loaded, offset_L=None))
    return test.measure(search.answers_of(asked, test))
