"""The dense model's own answers as labels, for rows that have none (`task.supervision: "none"`).

The label of a row is the one with the highest log-probability, or where several may be right those with a positive
output. Each word of a tagged text has a label. The number of a regression row is the model's output, and the right
embedding of a text is its own. Label offsets cannot be fitted without labels.

Shape suffixes as in `worker.slimming.scoring.objectives`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from service.contract.answers.report import OwnAnswers
from service.contract.errors import UnusableAnswers
from service.contract.options import TaskKind
from service.contract.request.presets import LABELLED_BY_HEAD
from worker.data import batching
from worker.data.examples import Example
from worker.data.prompts import labels_text, number_text
from worker.data.tagged_texts import tags_text
from worker.evaluation import answer_scores, generation
from worker.evaluation.answers import Answers
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import EvaluationSet, Role
from worker.stages.task_model import Examples, TaskModel, with_examples, with_offset_rows

Answer = Callable[[TaskModel], Answers]


@dataclass(frozen=True)
class PseudoLabelled:
    """Examples with the model's own answers as labels, and the probability of each answer."""

    examples: list[Example]
    confidence_E: Tensor


def label(context: JobContext, sets: Sequence[EvaluationSet], ask: Answer) -> list[EvaluationSet]:
    """The sets with the model's answers in place of missing labels.

    Evaluation rows of every set are labelled, and the calibration rows of the job's own task; calibration rows whose
    answer is less probable than `task.confidence` are left out. `ask` gives the dense model's answers to the
    evaluation rows of a task model. Raises UnusableAnswers where some label has no calibration row left.
    """
    return [replace(each, task_model=_labelled(context, each, ask)) for each in sets]


def _labelled(context: JobContext, evaluation_set: EvaluationSet, ask: Answer) -> TaskModel:
    task_model = evaluation_set.task_model
    if not task_model.evaluation.answered:
        labelled = answer(context, task_model, task_model.evaluation, ask)
        rows = with_examples(context, task_model, task_model.evaluation, labelled.examples)
        task_model = replace(task_model, evaluation=rows)
    if task_model.kind is TaskKind.embedding:
        return task_model  # no score and no repair needs answers to the calibration rows
    if evaluation_set.role is Role.task and not task_model.calibration.answered:
        task_model = _with_labelled_calibration(context, task_model, ask)
    return task_model


def _with_labelled_calibration(context: JobContext, task_model: TaskModel, ask: Answer) -> TaskModel:
    labelled = answer(context, task_model, task_model.calibration, ask)
    confident = _confident(labelled, context.task.confidence or 0.0)
    counts = Counter(index for example in confident for index in _given(task_model, example))
    labels = list(task_model.wording.words)
    own_answers = OwnAnswers(
        given={label: counts[index] for index, label in enumerate(labels)},
        left_out=len(labelled.examples) - len(confident),
    )
    if task_model.kind in LABELLED_BY_HEAD and confident:
        _check_some_label_is_given(own_answers)
    else:
        _check_every_label_is_given(own_answers, labelled, confident, labels)
    calibration = with_examples(context, task_model, task_model.calibration, confident)
    return with_offset_rows(context, replace(task_model, calibration=calibration, own_answers=own_answers))


def answer(context: JobContext, task_model: TaskModel, rows: Examples, ask: Answer) -> PseudoLabelled:
    """The rows with the model's own answers: the most probable label of each, or the text that it generates.

    The confidence is the label's probability among the labels. For a text it is the geometric mean of
    P(token | tokens before it), which does not depend on the length of the text. A number has the confidence 1.
    """
    if task_model.generates:
        return _generated(context, task_model, rows)
    answers = ask(replace(task_model, evaluation=rows))
    if task_model.kind is TaskKind.embedding:
        return _with_embeddings(rows.examples, answers)
    if task_model.kind is TaskKind.regression:
        return _with_numbers(rows.examples, answers)
    if task_model.kind is TaskKind.token_classification:
        return _with_tags(rows.examples, answers)
    if task_model.kind is TaskKind.multi_label:
        return _with_decisions(rows.examples, answers, list(task_model.wording.words))
    confidence_E, answer_E = answers.scores.score_EL.softmax(dim=1).max(dim=1)
    words = list(task_model.wording.words.values())
    examples = [
        replace(example, answer=index, text=words[index])
        for example, index in zip(rows.examples, answer_E.tolist(), strict=True)
    ]
    return PseudoLabelled(examples, confidence_E)


def _with_decisions(examples: Sequence[Example], answers: Answers, labels: Sequence[str]) -> PseudoLabelled:
    """The labels that the model gives; the confidence is the geometric mean of the probabilities of its decisions."""
    decided = [tuple(map(float, decision_L)) for decision_L in answers.decision_EL.tolist()]
    pairs = zip(examples, decided, strict=True)
    labelled = [replace(example, text=labels_text(labels, target), target=target) for example, target in pairs]
    return PseudoLabelled(labelled, logsigmoid(answers.scores.score_EL.abs()).mean(dim=1).exp())


def _with_embeddings(examples: Sequence[Example], answers: Answers) -> PseudoLabelled:
    """The embeddings of the model, with which those of a cut one are compared."""
    pairs = zip(examples, answers.scores.score_EL.tolist(), strict=True)
    embedded = [replace(example, target=tuple(embedding)) for example, embedding in pairs]
    return PseudoLabelled(embedded, torch.ones(len(embedded)))


def _with_tags(examples: Sequence[Example], answers: Answers) -> PseudoLabelled:
    """The most probable tags; the confidence is the geometric mean of their probabilities."""
    likelihood_E, tag_E = answers.scores.score_EL.log_softmax(dim=1).max(dim=1)
    sizes = [len(example.tags) for example in examples]
    given = [tuple(tag_W.tolist()) for tag_W in tag_E.split(sizes)]
    tagged = [
        replace(example, tags=tags, text=tags_text(tags, example.tag_names))
        for example, tags in zip(examples, given, strict=True)
    ]
    confidences = [part_W.mean().exp() if len(part_W) else torch.tensor(1.0) for part_W in likelihood_E.split(sizes)]
    return PseudoLabelled(tagged, torch.stack(confidences))


def _with_numbers(examples: Sequence[Example], answers: Answers) -> PseudoLabelled:
    output_E = answers.scores.score_EL[:, 0]
    pairs = zip(examples, output_E.tolist(), strict=True)
    numbered = [replace(example, text=number_text(number), target=(number,)) for example, number in pairs]
    return PseudoLabelled(numbered, torch.ones_like(output_E))


def _generated(context: JobContext, task_model: TaskModel, rows: Examples) -> PseudoLabelled:
    model, wording, padding = task_model.loaded.model, task_model.wording, task_model.padding
    budget, count = context.settings.tokens_per_batch, context.counter(2 * len(rows.examples))
    generated = generation.generate_tokens(model, rows.examples, wording, padding, budget, count)
    texts = generation.texts(generated, wording, padding)
    examples = [
        replace(example, candidates=(tuple(tokens),), text=text)
        for example, tokens, text in zip(rows.examples, generated, texts, strict=True)
    ]
    scores = answer_scores.score(
        model, batching.batches(examples, padding, budget), lambda done: count(len(rows.examples) + done)
    )
    length_E = torch.tensor([len(tokens) for tokens in generated])
    return PseudoLabelled(examples, (scores.score_EL[:, 0] / length_E).exp())


def _confident(labelled: PseudoLabelled, least: float) -> list[Example]:
    """The examples whose confidence is at least `least`."""
    pairs = zip(labelled.examples, labelled.confidence_E.tolist(), strict=True)
    return [example for example, confidence in pairs if confidence >= least]


def _given(task_model: TaskModel, example: Example) -> list[int]:
    """The indices of the labels that an example has."""
    if task_model.kind is TaskKind.token_classification:
        return list(example.tags)
    if task_model.kind is TaskKind.multi_label:
        return [index for index, is_given in enumerate(example.target) if is_given]
    return [example.answer]


def _check_some_label_is_given(own_answers: OwnAnswers) -> None:
    """Labels that are never given are fine: that they are not is kept as well."""
    if not any(own_answers.given.values()):
        message = "the model gives no label to any calibration row: give other rows, or rows with labels"
        raise UnusableAnswers(message, param="task.supervision")


def _check_every_label_is_given(
    own_answers: OwnAnswers, labelled: PseudoLabelled, confident: Sequence[Example], labels: Sequence[str]
) -> None:
    if not confident:
        raise UnusableAnswers(
            f"none of the model's {len(labelled.examples)} answers is as probable as `task.confidence` asks; the most "
            f"probable one has {labelled.confidence_E.max():.3f}: set a lower confidence",
            param="task.confidence",
        )
    given = {labels[example.answer] for example in labelled.examples} if labels else set()
    for missing in [label for label in labels if not own_answers.given[label]]:
        rows = "any calibration row with the probability that `task.confidence` asks" if missing in given else None
        raise UnusableAnswers(
            f"the model does not answer {missing!r} to {rows or 'any calibration row'}, so that no unit would be kept "
            "for this label: give more rows, or rows with labels",
            param="task.confidence" if missing in given else "task.supervision",
        )
