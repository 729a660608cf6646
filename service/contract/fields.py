"""Types and limits that several models of the contract share.

The contract imports pydantic only. A name here is the name everywhere: in the API, the code, the Redis keys, the logs
and the tests.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue

MAX_ROWS = 100_000  # inline in one request
MAX_WRITTEN_ROWS = 10_000  # that a synthesis writes
MAX_RATIO = 0.95
EVALUATION_SHARE = 5  # one calibration row in five is set aside where a task names no evaluation rows
MAX_KEPT_TEXTS = 10_000
MAX_TASKS = 16
MAX_OBSERVED = 16
MAX_EVALUATIONS = 16
OWN_TASK = "own-task"  # the title of a task that has neither name nor preset
GENERAL = "general"  # that of general rows
GENERAL_PLACE = "task.general"  # the path of general rows in a request
Uri = Annotated[str, Field(min_length=1, max_length=2048)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Tag = Annotated[str, Field(max_length=256)]
Tags = Annotated[dict[Annotated[str, Field(max_length=64)], Tag], Field(max_length=16)]
# A field of a request is common, or declared with `json_schema_extra=EXPERT`: most requests leave it at its default.
# The OpenAPI document, the form of the status page and docs/request.md show the groups from this mark.
Group = Literal["common", "expert"]
EXPERT: dict[str, JsonValue] = {"x-group": "expert"}


class Schema(BaseModel):
    """A frozen model that refuses unknown fields, so that a misspelt field of a request is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __deepcopy__(self, memo: object = None) -> Self:
        """The model itself: it is frozen. pydantic would otherwise copy every default for every request."""
        return self


def groups(model: type[BaseModel], prefix: str = "", *, expert: bool = False) -> dict[str, Group]:
    """Dotted path of every field of the model and of the models in it -> its group.

    An entry of a list or of a mapping has the path of the list or mapping. Fields within an expert field are expert.
    """
    found: dict[str, Group] = {}
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        is_expert = expert or field.json_schema_extra == EXPERT
        found[path] = "expert" if is_expert else "common"
        for inner in _models(field.annotation):
            found |= groups(inner, f"{path}.", expert=is_expert)
    return found


def _models(annotation: object) -> list[type[BaseModel]]:
    """The models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
