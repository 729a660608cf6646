"""A request that plan and worker refuse."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Site(NamedTuple):
    """A function of the worker that raises errors for requests."""

    module: str
    function: str


@dataclass
class Case:
    """A request that is refused: `prepare` changes the files of its model, `fields` its fields."""

    site: Site
    code: str
    param: str
    fields: dict[str, Any] = field(default_factory=dict)
    family: str = "llama"
    prepare: Callable[[Path], object] = lambda directory: None


def rows(*labels: str) -> dict[str, Any]:
    return {"rows": [{"text": "good film", "label": label} for label in labels]}


def targets(*values: Any) -> dict[str, Any]:
    return {"rows": [{"text": "good film", "target": value} for value in values]}


CONVERSATION = {"messages": [{"role": "user", "content": "good"}, {"role": "assistant", "content": "LABEL_1"}]}
CHAT: dict[str, Any] = {"kind": "generation", "template": None, "labels": None, "messages": "messages"}
CHAT_WITH_ROWS = CHAT | {part: {"rows": [CONVERSATION] * 4} for part in ("calibration", "evaluation")}
EMBEDDING: dict[str, Any] = {"kind": "embedding", "template": None, "labels": None}
OF_HEAD: dict[str, Any] = {"labels": {"1": "LABEL_1", "0": "LABEL_0"}}
HEADS = {"method": {"units": ["heads"]}}
UNEQUAL = {"method": {"units": ["ffn"], "scope": "global"}}
CONFIG = "config.json"
