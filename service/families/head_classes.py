"""The classes of a classification head, and whether they cover the labels of a task."""

from collections.abc import Mapping
from typing import Any, TypeVar

from service.contract.errors import InvalidLabels
from service.contract.options import TaskKind
from service.contract.task import TaskWording

TaskT = TypeVar("TaskT", bound=TaskWording)


def with_labels(task: TaskT, classes: Mapping[str, int]) -> TaskT:
    """The task with the classes of the head as its labels, where it names none."""
    if task.kind is not TaskKind.multi_label or task.labels is not None:
        return task
    return task.model_copy(update={"labels": {name: name for name in classes}})


def head_classes(task: TaskWording, id2label: Mapping[Any, Any]) -> dict[str, int]:
    """Class name -> index in the head, from the `id2label` of a config.json.

    Raises InvalidLabels for a label whose word is not a class of the head.
    """
    classes = {str(name): int(index) for index, name in id2label.items()}
    for label, word in (task.labels or {}).items():
        if word not in classes:
            message = (
                f"the label {label!r} stands for the class {word!r}, which the model's head does not have; it has "
                f"{', '.join(classes)}"
            )
            raise InvalidLabels(message, param="task.labels")
    return classes
