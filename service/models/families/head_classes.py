"""The classes of a classification head, and whether they cover the labels of a task and suit its metric."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from service.contract.errors import InvalidLabels, InvalidRequest
from service.contract.options import TaskMetric
from service.contract.request.presets import LABELLED_BY_HEAD
from service.contract.request.task import TaskWording

ENTITY_TAG = re.compile(r"O|[BIES]-.+")  # O, or the place of a word in an entity and the type of this

TaskT = TypeVar("TaskT", bound=TaskWording)


def with_labels(task: TaskT, classes: Mapping[str, int]) -> TaskT:
    """The task with the classes of the head as its labels, where it names none."""
    if task.kind not in LABELLED_BY_HEAD or task.labels is not None:
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


def check_entity_tags(task: TaskWording) -> None:
    """Raise InvalidRequest where entities are counted, and the classes of a labelled task mark none."""
    if task.metric is not TaskMetric.entity_f1:
        return
    for word in (task.labels or {}).values():
        if not ENTITY_TAG.fullmatch(word):
            message = (
                f"the class {word!r} is no tag of an entity, which are O, B-type and I-type, so that there is no "
                f"`{TaskMetric.entity_f1}`: send the metric `{TaskMetric.tag_accuracy}`"
            )
            raise InvalidRequest(message, param="task.metric")
