"""Conversations as prompts and right texts, by the chat template of the model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from service.contract.errors import InvalidData, InvalidLabels, InvalidModel
from service.contract.messages import Message, answers, asked
from service.contract.options import TaskKind
from service.contract.request.presets import LABEL_COLUMN
from service.rows.row import Row
from worker.data.chat_templates import prompt, prompt_and_answer
from worker.data.wordings import Wording

SAMPLE = (Message("user", "..."),)


@dataclass(frozen=True)
class Turn:
    """A place in a conversation where the assistant speaks, and what it says there; None where nothing is known."""

    position: str  # of the row
    before: Sequence[Message]
    answer: str | None

    @property
    def texts(self) -> dict[str, str]:
        """The contents of the messages before it, by their places."""
        return {str(place): message.content for place, message in enumerate(self.before)}

    def ask(self, wording: Wording, texts: Mapping[str, str]) -> tuple[str, list[str]]:
        """(the prompt, the right texts of a generation task), with `texts` as contents of the messages."""
        messages = [replace(message, content=texts[str(place)]) for place, message in enumerate(self.before)]
        with self._named():
            if self.answer is None:
                return prompt(wording.tokenizer, messages), []
            text, added = prompt_and_answer(wording.tokenizer, messages, self.answer)
            return text, [_written(added, self.answer, wording)]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the row in errors about it."""
        try:
            yield
        except (InvalidData, InvalidModel) as error:
            raise type(error)(f"{self.position}: {error.message}", param=error.param) from error


def _written(added: str, answer: str, wording: Wording) -> str:
    """The answer as the template writes it, up to its end token, from all that the template adds to the prompt.

    Raises InvalidData where this does not end as after other answers, InvalidLabels where it changes a label word.
    """
    assert wording.chat is not None, "the rows are conversations"
    lead, tail, ending = wording.chat.lead, wording.chat.tail, wording.chat.ending
    if wording.task.kind is TaskKind.generation:
        if not added.endswith(tail) or len(added) == len(tail):
            raise InvalidData("the chat template of the model does not write the answer as it writes others")
        return added.removesuffix(tail) + ending
    if added != f"{lead}{answer}{tail}":
        message = f"the chat template of the model does not write the answer {answer!r} as it is: change the label word"
        raise InvalidLabels(message, param="task.labels")
    return answer


def turns(row: Row, wording: Wording, *, answered: bool, every: bool) -> list[Turn]:
    """The answers of a row's conversation that are examples: the last one, or with `every` each generated one.

    Not `answered`, the answer that the model is to give itself.
    """
    messages = row.conversation(wording.task.messages or "")
    if not answered:
        return [Turn(row.position, asked(messages, answered=False), None)]
    if wording.words:
        word = wording.words[row.text(LABEL_COLUMN)]
        return [Turn(row.position, asked(messages, answered=True), word)]
    places = answers(messages)
    return [
        Turn(row.position, messages[:place], messages[place].content) for place in (places if every else places[-1:])
    ]


def sample(wording: Wording) -> str:
    """The prompt of a conversation whose only message has dots as its content."""
    return prompt(wording.tokenizer, SAMPLE)
