"""Tokenizers that are refused by their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from service.contract.errors import InvalidModel
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.planning import request_for
from tests.support.tiny_models import VOCABULARY

EXTRA = VOCABULARY + 3


def with_tokens(directory: Path, added: dict[str, int], ordinary: dict[str, int]) -> None:
    """Write a tiny model with further tokens in its tokenizer."""
    checkpoints.write(directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] += [{"id": number, "content": text} for text, number in added.items()]
    content["model"]["vocab"] |= ordinary
    path.write_text(json.dumps(content))


def task(**fields: Any) -> dict[str, Any]:
    plain: dict[str, Any] = request_for(Path("/")).model_dump(mode="json")["task"]
    return plain | fields


def test_added_tokens_beyond_the_embedding_are_refused_where_a_template_has_them(
    tmp_path: Path, access: Access
) -> None:
    with_tokens(tmp_path, {"<review>": EXTRA}, {})
    plan(request_for(tmp_path), access)
    for used in ({"template": "<review>{text}:"}, {"labels": {"bad": "bad", "good": "<review>"}}):
        with pytest.raises(InvalidModel, match=rf"the token {EXTRA} \('<review>'\).* of {VOCABULARY} tokens"):
            plan(request_for(tmp_path, task=task(**used)), access)


CHAT = {"kind": "generation", "messages": "messages", "calibration": {"uri": "file:///rows.jsonl"}}
TEMPLATE = "{% for message in messages %}<turn>{{ message['content'] }}{% endfor %}"


def in_config(directory: Path, template: object) -> None:
    checkpoints.change_json(directory / "tokenizer_config.json", chat_template=template)


def in_file(directory: Path, template: str) -> None:
    (directory / "chat_template.jinja").write_text(template)


@pytest.mark.parametrize(
    ("put", "template"),
    [
        (in_file, TEMPLATE),
        (in_config, TEMPLATE),
        (in_config, [{"name": "tool_use", "template": "a"}, {"name": "default", "template": TEMPLATE}]),
    ],
)
def test_a_chat_template_is_found_where_transformers_finds_it(
    tmp_path: Path, access: Access, put: Callable[[Path, Any], None], template: Any
) -> None:
    checkpoints.write(tmp_path)
    put(tmp_path, template)
    (tmp_path / "rows.jsonl").touch()
    chat = CHAT | {"calibration": {"uri": (tmp_path / "rows.jsonl").as_uri()}}
    plan(request_for(tmp_path, task=chat), access)
    assert AutoTokenizer.from_pretrained(tmp_path).get_chat_template() == TEMPLATE
    with_tokens(tmp_path, {"<turn>": EXTRA}, {})
    put(tmp_path, template)
    plan(request_for(tmp_path), access)
    with pytest.raises(InvalidModel, match=rf"the token {EXTRA} \('<turn>'\)"):
        plan(request_for(tmp_path, task=chat), access)


@pytest.mark.parametrize(
    ("put", "template"),
    [
        (in_file, ""),
        (in_config, None),
        (in_config, ""),
        (in_config, 3),
        (in_config, [{"name": "tool_use", "template": "a"}, "default"]),
    ],
)
@pytest.mark.parametrize("place", ["task", "observe"])
def test_conversations_need_a_chat_template(
    tmp_path: Path, access: Access, put: Callable[[Path, Any], None], template: Any, place: str
) -> None:
    checkpoints.write(tmp_path)
    put(tmp_path, template)
    (tmp_path / "rows.jsonl").touch()
    rows = {"uri": (tmp_path / "rows.jsonl").as_uri()}
    chat: dict[str, Any] = {"kind": "generation", "messages": "messages"}
    fields = {"task": chat | {"calibration": rows}} if place == "task" else {"observe": [chat | {"evaluation": rows}]}
    plan(request_for(tmp_path), access)
    with pytest.raises(InvalidModel, match=r"needs the chat template of the model, and .* has none") as refused:
        plan(request_for(tmp_path, **fields), access)
    assert refused.value.param == "model.uri"


def test_ordinary_tokens_beyond_the_embedding_are_refused(tmp_path: Path, access: Access) -> None:
    with_tokens(tmp_path, {}, {"Ġreview": EXTRA})
    with pytest.raises(InvalidModel, match=rf"the token {EXTRA}"):
        plan(request_for(tmp_path), access)


def test_a_unigram_tokenizer_has_its_ids_in_the_order_of_its_list(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path)
    pieces = [[f"piece{number}", -1.0] for number in range(VOCABULARY + 1)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": pieces}}))
    with pytest.raises(InvalidModel, match=rf"the token {VOCABULARY} \('piece{VOCABULARY}'\)"):
        plan(request_for(tmp_path), access)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InvalidModel, match=r"has no tokenizer: add tokenizer\.json"):
        plan(request_for(tmp_path), access)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000])
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, access: Access, content: str) -> None:
    checkpoints.write(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InvalidModel, match=r"tokenizer\.json that is not (JSON|a JSON object)"):
        plan(request_for(tmp_path), access)
