"""Conversations, as a column of a row holds them: a list of messages with a role and a content.

    [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]

This is the format of TRL and of OpenAI's files for fine-tuning. An answer is an assistant's message, unless OpenAI's
`weight` 0 takes it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.contract.errors import InvalidData

ASSISTANT = "assistant"
ROLES = ("system", "user", ASSISTANT)
FORMAT = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
# Further fields that chat templates write: without them the prompt would be another one.
WRITTEN = ("tool_calls", "tool_call_id", "function_call", "name", "reasoning_content", "thinking")
UNREADABLE: list[Any] = []  # stands for a content or a weight of another type


@dataclass(frozen=True)
class Message:
    """A message of a conversation. `counts` is false for an assistant's message that is no answer to learn from."""

    role: str
    content: str
    counts: bool = True


def kept_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What `conversation` looks at of messages: images and other large values are left out."""
    return [_kept_message(message) for message in messages]


def _kept_message(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content, weight = (message.get(name) for name in ("role", "content", "weight"))
    kept: dict[str, Any] = {"role": role if isinstance(role, str) else None}
    if isinstance(content, list):
        kept["content"] = [_kept_part(part) for part in content]
    else:
        kept["content"] = content if content is None or isinstance(content, str) else UNREADABLE
    if weight is not None:
        kept["weight"] = int(weight) if weight in (0, 1) else UNREADABLE
    return kept | {name: True for name in WRITTEN if message.get(name)}


def _kept_part(part: Any) -> dict[str, str]:
    fields = part if isinstance(part, dict) else {}
    return {name: fields[name] for name in ("type", "text") if isinstance(fields.get(name), str)}


def conversation(value: Any) -> list[Message]:
    """The messages of a column's value, content in parts as one text. Raises InvalidData with the number of a message
    that cannot be read, and for a conversation that begins with its answer."""
    is_list = isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)
    if not is_list:
        raise InvalidData(f"a list of messages is needed: {FORMAT}")
    messages = [_message(message, number) for number, message in enumerate(value, start=1)]
    if messages[0].role == ASSISTANT:
        raise InvalidData("message 1 is the assistant's, and nothing before it asks for it: begin with what is asked")
    return messages


def _message(fields: Mapping[str, Any], number: int) -> Message:
    role = fields.get("role")
    if role not in ROLES:
        raise InvalidData(f"message {number} has the role {role!r}: give one of {', '.join(ROLES)}")
    for name in WRITTEN:
        if fields.get(name):
            raise InvalidData(f"message {number} has the field {name!r}: only `role` and `content` are read")
    weight = fields.get("weight", 1)
    if weight not in (0, 1):
        raise InvalidData(f"message {number} has another `weight` than 0 or 1")
    content = _content(fields.get("content"), number)
    if not content.strip():
        raise InvalidData(f"message {number} has no content: leave it out, or give its text")
    return Message(role, content, counts=weight == 1)


def _content(content: Any, number: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if content == UNREADABLE:
        raise InvalidData(f"message {number} has a content that is neither text nor a list of parts with text")
    for part in content:
        if part.get("type") != "text" or "text" not in part:
            kind = part.get("type", "none that is a text")
            raise InvalidData(
                f"message {number} has a part of the type {kind!r}: only parts of the type 'text' are read"
            )
    return "".join(part["text"] for part in content)


def answers(messages: Sequence[Message]) -> list[int]:
    """The places of the answers in a conversation."""
    return [place for place, message in enumerate(messages) if message.role == ASSISTANT and message.counts]


def is_answered(messages: Sequence[Message]) -> bool:
    """Whether the conversation ends with an answer."""
    return messages[-1].role == ASSISTANT and messages[-1].counts


def asked(messages: Sequence[Message], *, answered: bool) -> list[Message]:
    """What comes before the last answer. Where there is none to learn from, not `answered`, what asks for the next."""
    if answered:
        return list(messages[: answers(messages)[-1]])
    return list(messages[:-1] if messages[-1].role == ASSISTANT else messages)
