"""The chat template of a tokenizer: what it writes before an answer, around it and after it.

The prompt of an answer is the conversation before it, rendered with the generation prompt. The answer is what the
template adds to this when the conversation is rendered with the answer, up to the token that ends the turn:

    <|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n   Good day<|im_end|>   \\n
    |------------------------ prompt -----------------------|   |---- answer ----|   rest

Every answer is rendered as the last message, where the model would write it. The template writes all special tokens
itself: the tokenizer adds none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from service.contract.errors import InvalidData, InvalidModel
from service.contract.messages import ASSISTANT, Message

PROBE = (Message("user", "a"),)
MARK = "Taskslimanswer"  # an answer whose place in the rendered text is found again


@dataclass(frozen=True)
class ChatFrame:
    """What a chat template writes around every answer."""

    lead: str  # before the answer and after the prompt: mostly nothing, with some models an empty thought
    tail: str  # after the answer
    ending: str  # the start of the tail that belongs to the answer: up to its end token; "" without one
    end: int | None  # the end token


def chat_frame(tokenizer: PreTrainedTokenizerBase) -> ChatFrame:
    """The frame of the tokenizer's chat template.

    Raises InvalidModel without a template, for one that cannot be run, and as `prompt_and_answer`.
    """
    if not has_template(tokenizer):
        message = (
            "`task.messages` needs the chat template of the model, and the model has none: add chat_template.jinja"
        )
        raise InvalidModel(f"{message}, or give `task.template`", param="model.uri")
    try:
        _, text = prompt_and_answer(tokenizer, PROBE, MARK)
    except InvalidData as error:
        raise InvalidModel(f"a question with its answer: {error.message}", param="model.uri") from error
    lead, found, tail = text.partition(MARK)
    if not found or MARK in tail:
        raise InvalidModel("the chat template of the model does not write every answer once", param="model.uri")
    ending, end = _ending(tokenizer, tail)
    return ChatFrame(lead, tail, ending, end)


def prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The text that asks for an answer to the messages. Raises InvalidData where the template refuses them."""
    return _render(tokenizer, messages, asks=True)


def prompt_and_answer(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> tuple[str, str]:
    """(the prompt of the messages, what the template adds to it when they have an answer).

    Raises InvalidData where the template refuses the messages, InvalidModel where it writes them otherwise when they
    have an answer.
    """
    before = prompt(tokenizer, messages)
    whole = _render(tokenizer, [*messages, Message(ASSISTANT, answer)], asks=False)
    if not whole.startswith(before):
        message = (
            "the chat template of the model writes the text before an answer otherwise than the prompt that asks for "
            "it, so that the tokens of an answer are not known: give `task.template`"
        )
        raise InvalidModel(message, param="model.uri")
    return before, whole[len(before) :]


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there is a chat template. Of several the one with the name `default` is used."""
    found = tokenizer.chat_template
    return bool(found.get("default") if isinstance(found, dict) else found)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, asks: bool) -> str:
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=asks)
    except Exception as error:  # the template is code of the checkpoint, which may fail in any way
        if type(error) is TemplateError:  # its `raise_exception`
            raise InvalidData(f"the chat template of the model refuses the conversation: {error}") from error
        raise InvalidModel(f"the chat template of the model cannot be run: {error!r}", param="model.uri") from error
    return str(text)


def _ending(tokenizer: PreTrainedTokenizerBase, tail: str) -> tuple[str, int | None]:
    """(the tail up to its first special token, that token); ("", None) where it has none."""
    special = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    found = [(tail.find(token), -len(token), token) for token in special if token in tail]
    if not found:
        return "", None
    place, _, token = min(found)
    return tail[:place] + token, special[token]
