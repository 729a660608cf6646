"""A row as tokens of a model: its prompt and the candidate answers."""

from dataclasses import dataclass, field

from service.rows.row import Row
from worker.data.wordings import Tokens


@dataclass(frozen=True)
class Example:
    """A prompt and its candidate answers as tokens; `answer` is the index of the right one.

    For a decoder-only model a candidate continues the prompt; for an encoder-decoder it is the decoder's output; for a
    classification head it is the index of a class. Where the outputs of the head are taken as they are, `target` has
    the right one for each candidate.
    """

    prompt: Tokens
    candidates: tuple[Tokens, ...]
    answer: int
    text: str  # the right answer as text
    others: tuple[str, ...] = ()  # further right texts of a generation task, which metrics alone read
    other_tokens: int = 0  # of the longest of these
    target: tuple[float, ...] = ()  # the number of a row, or 1 for each of several right labels and else 0
    second: Tokens = ()  # of the second text of an embedding's row, whose first text is the prompt
    words: tuple[int, ...] | None = None  # of a tagged text: the place in the prompt of the first token of each word
    tags: tuple[int, ...] = ()  # the index of the right tag of each of these words
    tag_names: tuple[str, ...] = ()  # by index
    dense_tokens: int | None = None  # of the prompt as the dense model reads it, where the slim one has fewer tokens
    row: Row | None = field(default=None, compare=False, repr=False)  # of an evaluation row, which may be read again
    is_written: bool = field(default=False, compare=False)  # whether a model wrote this row, see `worker.synthesis`
    rationale: "Example | None" = field(default=None, compare=False, repr=False)  # of the right answer, as tokens

    @property
    def references(self) -> tuple[str, ...]:
        """Every right answer as text."""
        return (self.text, *self.others)
