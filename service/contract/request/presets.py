"""The presets, which are built-in tasks, and the function that completes a task with its preset.

Templates and label words must not change: adapters are trained on exactly these strings. Rows have the columns `text`
and `label`; rows of tasks on pairs also have `text_b`.
"""

from functools import lru_cache
from string import Formatter
from typing import TypeVar

from service.contract.answers.catalog import Preset
from service.contract.errors import InvalidLabels, InvalidRequest, InvalidTemplate, UnknownPreset
from service.contract.options import METRICS, Supervision, TaskKind, TaskMetric
from service.contract.request.task import Task, TaskWording

AnyTask = TypeVar("AnyTask", bound=TaskWording)

LABEL_COLUMN = "label"
TARGET_COLUMN = "target"
WORDS_COLUMN = "tokens"
OF_TEMPLATES = ("max_words", "special_tokens", "label_prefix")  # fields of a task that only a template has use for
ANSWER_COLUMNS = {  # plain texts have none: they are what the model writes
    TaskKind.classification: LABEL_COLUMN,
    TaskKind.multi_label: LABEL_COLUMN,
    TaskKind.token_classification: "tags",
    TaskKind.regression: LABEL_COLUMN,
    TaskKind.generation: TARGET_COLUMN,
    TaskKind.embedding: LABEL_COLUMN,
}
DEFAULT_TEMPLATES = {TaskKind.embedding: "{text}", TaskKind.language_modelling: "{text}"}
# Kinds of tasks whose labels are by default the classes of the head.
LABELLED_BY_HEAD = (TaskKind.multi_label, TaskKind.token_classification)
# Kinds of tasks that have no labels -> what their rows have instead.
WITHOUT_LABELS = {
    TaskKind.regression: f"its rows have numbers in the column `{LABEL_COLUMN}`",
    TaskKind.generation: f"its rows have the column `{TARGET_COLUMN}`",
    TaskKind.embedding: "its rows have texts",
    TaskKind.language_modelling: "its rows have texts",
}


def _preset(name: str, max_words: int, template: str, **labels: str) -> Preset:
    return Preset(
        name=name, kind=TaskKind.classification, template=f"{template}\nAnswer:", labels=labels, max_words=max_words
    )


def _same(*words: str) -> dict[str, str]:
    """Labels that are their own answer words."""
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
    """The task completed with the fields of its preset, and checked.

    Fields that depend on the model's family stay null. The name of the preset stays, for the report. Raises
    UnknownPreset, InvalidTemplate, InvalidLabels, or InvalidRequest for a metric of another kind of task and for a
    field that has no effect beside `messages`.
    """
    fields: dict[str, object] = {"kind": TaskKind.classification}
    if task.preset is not None:
        preset = _find(task.preset)
        fields |= {name: getattr(preset, name) for name in ("kind", "template", "labels", "max_words")}
    own = {name: value for name in type(task).model_fields if (value := getattr(task, name)) is not None}
    resolved = task.model_copy(update=fields | own)
    if resolved.template is None and resolved.messages is None and resolved.kind in DEFAULT_TEMPLATES:
        resolved = resolved.model_copy(update={"template": DEFAULT_TEMPLATES[resolved.kind]})
    _check_prompt(resolved)
    _check_labels(resolved)
    return resolved.model_copy(update={"metric": _metric(resolved)})


def needs_answers(task: TaskWording, param: str, has_some: bool) -> bool:
    """Whether every row of the source at `param` of the request must have its right answer.

    With `supervision: none` calibration rows need none, and evaluation rows need one if some have one (`has_some`).
    Embeddings have right answers where the metric compares two texts, for the rows that are judged.
    """
    if task.kind is TaskKind.embedding:
        is_judged = param != "task.calibration" or (isinstance(task, Task) and task.evaluation is None)
        return is_judged and task.metric is not TaskMetric.cosine_similarity
    if not isinstance(task, Task) or task.supervision is Supervision.labels:
        return True
    return param != "task.calibration" and has_some


@lru_cache(maxsize=256)
def template_fields(template: str) -> frozenset[str]:
    """The columns of a template. Raises InvalidTemplate unless all fields have the form `{column}`."""
    try:
        parsed = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise InvalidTemplate(
            f"the template has wrong braces: {error}; write {{{{ and }}}} for literal braces", param="task.template"
        ) from error
    for _, name, form, conversion in parsed:
        if form or conversion or not (name or "").isidentifier():
            raise InvalidTemplate(
                f"the template's field {{{name}}} must be a plain column name such as {{text}}, without a format; "
                "write {{ and }} for literal braces",
                param="task.template",
            )
    return frozenset(name for _, name, _, _ in parsed if name)


def _find(name: str) -> Preset:
    if name not in PRESETS:
        raise UnknownPreset(
            f"there is no preset {name!r}; give one of {', '.join(sorted(PRESETS))}", param="task.preset"
        )
    return PRESETS[name]


def _metric(task: TaskWording) -> TaskMetric:
    """The metric of the task, by default that of its kind."""
    kind = task.kind or TaskKind.classification
    metric = task.metric or METRICS[kind][0]
    if metric not in METRICS[kind]:
        message = f"the metric {metric} does not judge a {kind} task: give one of {', '.join(METRICS[kind])}"
        raise InvalidRequest(message, param="task.metric")
    return metric


def _check_prompt(task: TaskWording) -> None:
    if task.kind is TaskKind.token_classification:
        _check_no_prompt(task)
        return
    if task.messages is None:
        _check_template(task)
        return
    if task.kind is TaskKind.embedding:
        message = "the embedding of a conversation is not slimmed for: give `task.template` and rows with texts"
        raise InvalidRequest(message, param="task.messages")
    if task.kind is TaskKind.language_modelling:
        message = "a conversation is no plain text: give the kind `generation`, or `task.template` and rows with texts"
        raise InvalidRequest(message, param="task.messages")
    if task.kind in (TaskKind.regression, TaskKind.multi_label):
        message = f"an assistant's message is one text, which is no answer to a {task.kind} task: give `task.template`"
        raise InvalidRequest(message, param="task.messages")
    if task.template is not None:
        param = "task.template" if task.preset is None else "task.preset"
        message = (
            "with `messages` the chat template of the model writes the prompt: give neither a template nor a preset"
        )
        raise InvalidTemplate(message, param=param)
    for name in OF_TEMPLATES:
        if getattr(task, name) is not None:
            message = f"with `messages` the chat template of the model writes the prompt: `{name}` would have no effect"
            raise InvalidRequest(message, param=f"task.{name}")
    if task.messages in ANSWER_COLUMNS.values():
        message = (
            f"rows with a template have their answers in the column {task.messages!r}: rename that of the messages"
        )
        raise InvalidRequest(message, param="task.messages")


def _check_text_alone(task: TaskWording) -> None:
    """Refuse fields that would make the embedded text another one than sentence-transformers embeds."""
    if task.label_prefix is not None or task.special_tokens is False:
        name = "special_tokens" if task.label_prefix is None else "label_prefix"
        message = f"a text is embedded with the special tokens of the tokenizer, and nothing behind it: leave `{name}`"
        raise InvalidRequest(f"{message} out", param=f"task.{name}")


def _check_no_prompt(task: TaskWording) -> None:
    for name in ("template", "messages", *OF_TEMPLATES):
        if getattr(task, name) is not None:
            message = (
                f"the rows of a {task.kind} task have their words in the column `{WORDS_COLUMN}`, without any prompt: "
                f"leave `{name}` out"
            )
            raise InvalidRequest(message, param=f"task.{name}")


def _check_template(task: TaskWording) -> None:
    if task.kind is TaskKind.embedding:
        _check_text_alone(task)
    if task.kind is TaskKind.language_modelling and task.label_prefix is not None:
        raise InvalidRequest("nothing follows a plain text: leave `label_prefix` out", param="task.label_prefix")
    if task.template is None:
        message = "give `preset`, `template` with a {column} field, or `messages` with the name of a column"
        raise InvalidTemplate(message, param="task.template")
    columns = template_fields(task.template)
    if not columns:
        raise InvalidTemplate("the template has no column: give at least one, such as {text}", param="task.template")
    answer = ANSWER_COLUMNS.get(task.kind or TaskKind.classification)
    if answer in columns:
        raise InvalidTemplate(
            f"the template contains the answer: remove the column {{{answer}}}", param="task.template"
        )


def _check_labels(task: TaskWording) -> None:
    if task.kind in WITHOUT_LABELS:
        if task.labels is not None:
            raise InvalidLabels(
                f"a {task.kind} task has no labels: leave `labels` out; {WITHOUT_LABELS[task.kind]}",
                param="task.labels",
            )
        return
    if task.labels is None and task.kind in LABELLED_BY_HEAD:
        return  # the classes of the head
    if task.labels is None:
        raise InvalidLabels(
            "a classification task needs `labels`: label in the rows -> answer word", param="task.labels"
        )
    label_of: dict[str, str] = {}
    for label, word in task.labels.items():
        if not word.strip():
            raise InvalidLabels(f"the label {label!r} has an empty answer word: give one", param="task.labels")
        other = label_of.setdefault(word.strip(), label)
        if other != label:
            raise InvalidLabels(
                f"the labels {other!r} and {label!r} have the same answer word {word!r}: give different words",
                param="task.labels",
            )
