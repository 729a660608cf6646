"""The parts of a request that the options of `taskslim slim` stand for.

The form of the status page makes the same request of the same choices; a test compares the two.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from service.contract.errors import InvalidRequest
from service.contract.options import TaskKind
from service.contract.request.presets import ANSWER_COLUMNS, DEFAULT_TEMPLATES, PRESETS, resolve, template_fields
from service.contract.request.target import Target
from service.contract.request.task import ModelSource, TaskWording

WITHOUT_TEMPLATE = (TaskKind.token_classification,)
DEFAULT_RATIO = 0.3  # also in the form of the status page
TARGET = ANSWER_COLUMNS[TaskKind.generation]
# Field of a request -> the option that sets it, for messages.
OPTIONS = {
    "uri": "MODEL",
    "kind": "--kind",
    "messages": "--messages",
    "preset": "--task",
    "template": "--task",
    "labels": "--labels",
    "name": "--name",
    "ratio": "--ratio",
    "keep_metric": "--keep",
}
EXAMPLE = "'Review: {text}\\nSentiment:' with --labels pos=positive,neg=negative"

Part = TypeVar("Part", bound=BaseModel)


def model_of(text: str) -> ModelSource:
    """The model at a URI, or in a directory or GGUF file of this machine. Raises BadParameter."""
    if "://" in text:
        return _part(ModelSource, uri=text)
    path = path_at("MODEL", text)
    if not path.exists():
        name = text if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else "owner/name"
        raise wrong(
            "MODEL", f"there is no directory {text}: give one, or a URI such as hf://{name} or s3://bucket/model"
        )
    return _part(ModelSource, uri=path.resolve().as_uri())


@dataclass(frozen=True)
class Answer:
    """What a task of one's own answers, as the options say."""

    kind: TaskKind | None = None
    labels: str | None = None  # label=word,label=word
    target_column: str | None = None  # with the texts that the model writes


def wording_of(
    task: str | None, answer: Answer, *, messages: str | None = None, name: str | None = None
) -> TaskWording:
    """The wording of a preset, or of a task of one's own. Raises BadParameter.

    A template has a {column}, and `\\n` in it is a line break. `messages` names a column with conversations, in
    place of a template.
    """
    labels, target_column = answer.labels, answer.target_column
    given: dict[str, Any] = {"name": name, "labels": None if labels is None else _labels(labels)}
    if target_column is not None and labels is not None:
        raise wrong("--labels", "a task has either --labels, or --target for texts that the model writes")
    if messages is not None or answer.kind in WITHOUT_TEMPLATE:
        if task is not None:
            raise wrong(
                "--task", "rows of messages, or of words with tags, need no preset and no template: leave it out"
            )
        given |= {"messages": messages, "kind": answer.kind or (TaskKind.generation if labels is None else None)}
    elif task is None and answer.kind in DEFAULT_TEMPLATES:
        given |= {"kind": answer.kind}
    elif task is None:
        raise wrong("--task", f"give a preset, or a template such as {EXAMPLE}; or --messages COLUMN")
    elif "{" in task:
        given |= {"template": task.replace("\\n", "\n"), "kind": answer.kind or _kind(labels, target_column)}
    elif answer.kind is not None:
        raise wrong("--kind", f"a preset has a kind: leave --kind out, or give --task a template such as {EXAMPLE}")
    elif task not in PRESETS:
        raise wrong(
            "--task", f"there is no preset {task!r}: give one of {', '.join(PRESETS)}, or a template such as {EXAMPLE}"
        )
    elif target_column is not None:
        raise wrong("--target", f"the preset {task} has labels: leave --target out, or give --task a template")
    else:
        given["preset"] = task
    wording = _part(TaskWording, **given)
    _check(wording, target_column)
    return wording


def target_of(keep: float | None, ratio: float | None) -> Target:
    """The target, by default a ratio. Raises BadParameter for both, and for a number that the contract refuses."""
    if keep is not None and ratio is not None:
        message = "--keep searches the share to remove and --ratio sets it: give one of them"
        raise wrong("--keep", message)
    if keep is not None:
        return _part(Target, keep_metric=keep)
    return _part(Target, ratio=DEFAULT_RATIO if ratio is None else ratio)


def path_at(option: str, text: str) -> Path:
    """The path that an option names, whether or not there is a file. Raises BadParameter where nobody may look."""
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a name too long, no such user, a NUL
        raise wrong(option, f"{text} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return path


def wrong(option: str, message: str) -> typer.BadParameter:
    """The error of an option, which ends the command with exit code 2."""
    return typer.BadParameter(message, param_hint=f"'{option}'")


def _kind(labels: str | None, target_column: str | None) -> TaskKind:
    if labels is None and target_column is None:
        message = "a template needs --labels label=word,label=word, or --target COLUMN for texts, or --kind"
        raise wrong("--task", message)
    return TaskKind.generation if labels is None else TaskKind.classification


def _labels(text: str) -> dict[str, str]:
    """`pos=positive,neg=negative` as a mapping."""
    found: dict[str, str] = {}
    for part in text.split(","):
        label, separator, word = (piece.strip() for piece in part.partition("="))
        if not (label and separator and word):
            raise wrong("--labels", f"{part.strip()!r} is not label=word: give pairs such as pos=positive,neg=negative")
        if label in found:
            raise wrong("--labels", f"the label {label!r} is there twice: give each once")
        found[label] = word
    if len(found) < 2:
        raise wrong("--labels", "one label is no choice: give two at least, such as pos=positive,neg=negative")
    return found


def _check(wording: TaskWording, target_column: str | None) -> None:
    """Raise BadParameter for what the server would refuse of a wording without seeing its rows."""
    try:
        resolved = resolve(wording)
    except InvalidRequest as error:
        raise wrong(OPTIONS[(error.param or "task.template").rpartition(".")[2]], error.message) from error
    if target_column in template_fields(resolved.template or ""):
        raise wrong("--task", f"the template contains the answer: remove the column {{{target_column}}}")


def _part(model: type[Part], **fields: Any) -> Part:
    """A part of a request with the fields that are not None. Raises BadParameter with the first field that is wrong."""
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise wrong(OPTIONS[str(first["loc"][0])], first["msg"]) from error
