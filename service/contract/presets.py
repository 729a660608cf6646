"""Built-in tasks, as data, and the one function that fills in what a request leaves out.

The templates and label words are a contract: adapters are trained on exactly these strings. Rows carry `text`, pair
tasks also `text_b`, and `label`.
"""

from functools import lru_cache
from string import Formatter
from typing import TypeVar

from service.contract.catalog import Preset
from service.contract.errors import InvalidLabels, InvalidTemplate, UnknownPreset
from service.contract.options import Supervision, TaskKind
from service.contract.task import Task, TaskWording

AnyTask = TypeVar("AnyTask", bound=TaskWording)

LABEL_COLUMN = "label"
TARGET_COLUMN = "target"
ANSWER_COLUMNS = {TaskKind.classification: LABEL_COLUMN, TaskKind.generation: TARGET_COLUMN}


def _preset(name: str, max_words: int, template: str, **labels: str) -> Preset:
    return Preset(
        name=name, kind=TaskKind.classification, template=f"{template}\nAnswer:", labels=labels, max_words=max_words
    )


def _same(*words: str) -> dict[str, str]:
    """Labels whose answer word is the label itself."""
    return {word: word for word in words}


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _preset(
            "sst2",
            80,
            "Review: {text}\nIs the sentiment of this review positive or negative?",
            **_same("negative", "positive"),
        ),
        _preset(
            "imdb",
            80,
            "Movie review: {text}\nIs the sentiment of this review positive or negative?",
            **_same("negative", "positive"),
        ),
        _preset(
            "ag_news",
            80,
            "News: {text}\nIs the topic world, sports, business or technology?",
            **_same("world", "sports", "business", "technology"),
        ),
        _preset(
            "trec",
            80,
            "Question: {text}\n"
            "Does it ask for an abbreviation, an entity, a description, a human, a location or a number?",
            **_same("abbreviation", "entity", "description", "human", "location", "number"),
        ),
        _preset(
            "subj",
            80,
            "Sentence: {text}\nIs this sentence objective or subjective?",
            **_same("objective", "subjective"),
        ),
        _preset(
            "cola",
            80,
            "Sentence: {text}\nIs this sentence grammatical, yes or no?",
            acceptable="yes",
            unacceptable="no",
        ),
        _preset(
            "mnli",
            60,
            "Premise: {text}\nHypothesis: {text_b}\nDoes the premise entail the hypothesis, yes, no or maybe?",
            entailment="yes",
            neutral="maybe",
            contradiction="no",
        ),
        _preset(
            "qnli",
            60,
            "Question: {text}\nSentence: {text_b}\nDoes the sentence answer the question, yes or no?",
            entailment="yes",
            not_entailment="no",
        ),
        _preset(
            "mrpc",
            60,
            "First: {text}\nSecond: {text_b}\nDo the two sentences mean the same, yes or no?",
            equivalent="yes",
            not_equivalent="no",
        ),
        _preset(
            "rte",
            60,
            "Premise: {text}\nHypothesis: {text_b}\nIs the hypothesis true, yes or no?",
            entailment="yes",
            not_entailment="no",
        ),
    )
}


def resolve(task: AnyTask) -> AnyTask:
    """The task with its preset's fields under its own, and checked; what depends on the model's family stays open.

    Raises UnknownPreset, InvalidTemplate or InvalidLabels. The preset's name stays, for the report.
    """
    fields: dict[str, object] = {"kind": TaskKind.classification}
    if task.preset is not None:
        preset = _find(task.preset)
        fields |= {name: getattr(preset, name) for name in ("kind", "template", "labels", "max_words")}
    own = {name: value for name in type(task).model_fields if (value := getattr(task, name)) is not None}
    resolved = task.model_copy(update=fields | own)
    _check_template(resolved)
    _check_labels(resolved)
    return resolved


def needs_answers(task: TaskWording, param: str, has_some: bool) -> bool:
    """Whether every row of the source that the request names at `param` must have its right answer.

    Without supervision calibration rows need none, and evaluation rows all have one or none of them.
    """
    if not isinstance(task, Task) or task.supervision is Supervision.labels:
        return True
    return param != "task.calibration" and has_some


@lru_cache(maxsize=256)
def template_fields(template: str) -> frozenset[str]:
    """The columns that a template names. Raises InvalidTemplate for anything but plain `{column}` fields."""
    try:
        parsed = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise InvalidTemplate(f"the template cannot be read: {error}", param="task.template") from error
    for _, name, form, conversion in parsed:
        if form or conversion or not (name or "").isidentifier():
            raise InvalidTemplate(
                f"the template's field {{{name}}} is not a plain column name such as {{text}}; "
                "write {{ and }} for literal braces",
                param="task.template",
            )
    return frozenset(name for _, name, _, _ in parsed if name)


def _find(name: str) -> Preset:
    if name not in PRESETS:
        raise UnknownPreset(f"no preset {name!r}; there are {', '.join(sorted(PRESETS))}", param="task.preset")
    return PRESETS[name]


def _check_template(task: TaskWording) -> None:
    if task.template is None:
        raise InvalidTemplate("give `preset`, or `template` with a {column} field", param="task.template")
    columns = template_fields(task.template)
    if not columns:
        raise InvalidTemplate("the template names no column, such as {text}", param="task.template")
    answer = ANSWER_COLUMNS[task.kind or TaskKind.classification]
    if answer in columns:
        raise InvalidTemplate(f"the template holds the answer, {{{answer}}}", param="task.template")


def _check_labels(task: TaskWording) -> None:
    if task.kind is TaskKind.generation:
        if task.labels is not None:
            raise InvalidLabels("a generation task has no labels; its rows carry `target`", param="task.labels")
        return
    if task.labels is None:
        raise InvalidLabels("a classification task needs `labels`: label in the rows -> word", param="task.labels")
    label_of: dict[str, str] = {}
    for label, word in task.labels.items():
        if not word.strip():
            raise InvalidLabels(f"label {label!r} has an empty word", param="task.labels")
        other = label_of.setdefault(word.strip(), label)
        if other != label:
            raise InvalidLabels(f"labels {other!r} and {label!r} have the same word {word!r}", param="task.labels")
