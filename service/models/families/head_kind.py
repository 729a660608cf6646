"""The kind of task that a model with a classification head does, and whether it is that of a request."""

from service.contract.errors import InvalidModel, InvalidRequest
from service.contract.options import TaskKind
from service.contract.request.task import TaskWording
from service.models.families.family import CLASSIFIERS, Kind

# Values of `problem_type` in config.json
SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def head_kind(problem: object, outputs: int) -> TaskKind:
    """The kind of task of a head, from the `problem_type` of config.json and the number of its outputs.

    Without a `problem_type` one output is a regression, as in transformers. Raises InvalidModel for a head that does
    none of them.
    """
    if problem == MULTI_LABEL:
        return TaskKind.multi_label
    if problem in (None, REGRESSION) and outputs == 1:
        return TaskKind.regression
    if problem in (None, SINGLE_LABEL) and outputs > 1:
        return TaskKind.classification
    with_problem = "" if problem is None else f" and the problem_type {problem!r}"
    raise InvalidModel(
        f"config.json has a head with {outputs} output{'' if outputs == 1 else 's'}{with_problem}; a head is slimmed "
        f"for one class for each row, which takes two outputs or more, for several classes, with the problem_type "
        f"{MULTI_LABEL!r}, or for a regression, which takes one output: give a model that was trained for one of these",
        param="model.uri",
    )


def check_kind(task: TaskWording, kind: Kind, problem: object, outputs: int) -> None:
    """Raise InvalidRequest unless a model of the kind does tasks of the kind of a resolved task.

    `problem` and `outputs` are those of its head, where it has one. Raises InvalidModel as `head_kind`.
    """
    done = _kinds_of_tasks(kind, problem, outputs)
    if task.kind in done:
        return
    found = _described(task.kind, kind, done[0], outputs)
    other = "the checkpoint of an encoder alone" if task.kind is TaskKind.embedding else "another model"
    raise InvalidRequest(f"the model {found}: send the kind `{done[0]}`, or {other}", param="task.kind")


def _kinds_of_tasks(kind: Kind, problem: object, outputs: int) -> tuple[TaskKind, ...]:
    """The kinds of tasks that a model does."""
    if kind == "encoder":
        return (TaskKind.embedding,)
    if kind == "token_classifier":
        return (TaskKind.token_classification,)
    if kind in CLASSIFIERS:
        return (head_kind(problem, outputs),)
    texts = (TaskKind.language_modelling,) if kind == "causal" else ()
    return (TaskKind.classification, TaskKind.generation, *texts)


def _described(asked: TaskKind | None, kind: Kind, done: TaskKind, outputs: int) -> str:
    """What a model is that does tasks of the kind `done`, and not of the kind that is `asked`."""
    if kind == "encoder":
        return f"is an encoder without a head, which a task of the kind {asked} needs, and no adapter brings one"
    if kind == "token_classifier":
        return "has a head for the tokens of a text"
    if kind in CLASSIFIERS:
        by = " by its problem_type" if done is TaskKind.multi_label else ""
        return (
            f"has a head with {outputs} output{'' if outputs == 1 else 's'}, which is for tasks of the kind {done}{by}"
        )
    if asked is TaskKind.language_modelling:
        return "reads one text and writes another, and gives a plain text no probability"
    if asked is TaskKind.embedding:
        return "writes texts, and is not an encoder, which a task of the kind embedding needs"
    return f"has no classification head, which a task of the kind {asked} needs"
