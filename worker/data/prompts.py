"""Rows to token sequences: the prompt of an example and its candidate answers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from service.contract.errors import InvalidData, InvalidLabels, InvalidTemplate
from service.contract.families import Kind
from service.contract.head_classes import head_classes
from service.contract.options import TaskKind
from service.contract.presets import LABEL_COLUMN, TARGET_COLUMN, template_fields
from service.contract.rows import Row
from service.contract.task import TaskWording

Tokens = tuple[int, ...]

# kind of family -> whether the tokenizer adds its special tokens, what stands between prompt and answer word
DEFAULTS: dict[Kind, tuple[bool, str]] = {
    "causal": (False, " "),
    "encoder_decoder": (True, ""),
    "classifier": (True, ""),
}
OWN_ANSWER_TOKENS = 64  # that a model may write where a row brings no answer
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Example:
    """A prompt and the answers that compete for it, as tokens; `answer` is the index of the right one.

    For a decoder-only model a candidate continues the prompt; for an encoder-decoder it is what the decoder says; for
    a classification head it is the index of one class.
    """

    prompt: Tokens
    candidates: tuple[Tokens, ...]
    answer: int
    text: str  # the right answer in words


@dataclass(frozen=True)
class Wording:
    """How one model is asked one task."""

    kind: Kind
    task: TaskWording  # resolved
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int | None  # that the model takes; None: any number
    special_tokens: bool
    label_prefix: str
    classes: Mapping[str, int] = field(default_factory=dict)  # of a classification head

    @property
    def words(self) -> Mapping[str, str]:
        """Label in the rows -> answer word; empty for generation."""
        return self.task.labels or {}


Maker = Callable[[Row, Mapping[str, str], Wording], Example]


def wording(kind: Kind, task: TaskWording, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> Wording:
    """The wording of a resolved task for a loaded model. Raises InvalidLabels for a class that the head lacks."""
    special_tokens, label_prefix = DEFAULTS[kind]
    return Wording(
        kind=kind,
        task=task,
        tokenizer=tokenizer,
        max_tokens=_max_tokens(tokenizer, config),
        special_tokens=special_tokens if task.special_tokens is None else task.special_tokens,
        label_prefix=label_prefix if task.label_prefix is None else task.label_prefix,
        classes=head_classes(task, config.id2label or {}) if kind == "classifier" else {},
    )


def as_run(wording: Wording) -> TaskWording:
    """The task with what this model's family makes of the fields that were left open."""
    return wording.task.model_copy(
        update={"special_tokens": wording.special_tokens, "label_prefix": wording.label_prefix}
    )


def encode(rows: Sequence[Row], wording: Wording, *, answered: bool = True) -> tuple[list[Example], int]:
    """The examples of checked rows, and how many prompts lost words because the model takes no more tokens.

    Such a prompt loses words of its longest field from the end, never a word of the template. Rows that are not
    `answered` become examples that lack their answer: `worker.stages.pseudo_labels` fills it in. Raises InvalidData,
    InvalidLabels, InvalidTemplate.
    """
    make = _example if answered else _open_example
    columns = sorted(template_fields(wording.task.template or ""))
    shortened, examples = 0, []
    for row in rows:
        fields = {column: first_words(row.text(column), wording.task.max_words) for column in columns}
        example = make(row, fields, wording)
        if not _fits(example, wording):
            shortened += 1
            example = _shorten(row, fields, wording, make)
        examples.append(example)
    return examples, shortened


def first_words(text: str, limit: int | None) -> str:
    """The text up to the end of its `limit`-th word, white space as it was."""
    ends = [word.end() for word in islice(WORD.finditer(text), limit)]
    if limit is None or len(ends) < limit:
        return text
    return text[: ends[-1]] if ends else ""


def render(template: str, fields: Mapping[str, str]) -> str:
    """The template with its {column} fields filled in; `template_fields` has checked that it holds nothing else."""
    return template.format_map(fields)


def row_tokens(example: Example, kind: Kind) -> int:
    """Tokens of the longest input row that the example needs; an answer's last token is scored, never read."""
    answer = max(len(candidate) for candidate in example.candidates)
    return len(example.prompt) + (answer - 1 if kind == "causal" else 0)


def _example(row: Row, fields: Mapping[str, str], wording: Wording) -> Example:
    prompt = render(wording.task.template or "", fields)
    if wording.task.kind is TaskKind.generation:
        answers, right = [row.text(TARGET_COLUMN)], 0
    else:
        answers, right = list(wording.words.values()), list(wording.words).index(row.text(LABEL_COLUMN))
    tokens, candidates = TOKENISE[wording.kind](prompt, answers, wording)
    _check_candidates(candidates, answers)
    return Example(tokens, candidates, right, answers[right])


def _open_example(row: Row, fields: Mapping[str, str], wording: Wording) -> Example:
    """An example that lacks its answer: the first label stands in, or room for a text of a generation task."""
    prompt = render(wording.task.template or "", fields)
    answers = list(wording.words.values())
    tokens, candidates = TOKENISE[wording.kind](prompt, answers, wording)
    if wording.task.kind is TaskKind.generation:
        return Example(tokens, ((0,) * _room(wording),), 0, "")
    _check_candidates(candidates, answers)
    return Example(tokens, candidates, 0, "")


def _room(wording: Wording) -> int:
    """Tokens that an answer of the model's own may have."""
    return OWN_ANSWER_TOKENS if wording.max_tokens is None else min(OWN_ANSWER_TOKENS, wording.max_tokens // 2)


def _tokenise_causal(prompt: str, answers: Sequence[str], wording: Wording) -> tuple[Tokens, tuple[Tokens, ...]]:
    """The prompt ends where all candidates still agree with it, since a tokenizer may merge across the boundary."""
    opening = _opening_tokens(wording) if wording.special_tokens else ()
    prompt_ids = _ids(prompt, wording)
    whole = [_ids(prompt + wording.label_prefix + answer, wording) for answer in answers]
    shared = _shared([prompt_ids, *whole])
    if not opening and not shared:
        raise InvalidTemplate("the template leaves no token before the answer", param="task.template")
    closing = _closing_tokens(wording)
    return opening + tuple(prompt_ids[:shared]), tuple(tuple(ids[shared:]) + closing for ids in whole)


def _tokenise_encoder_decoder(
    prompt: str, answers: Sequence[str], wording: Wording
) -> tuple[Tokens, tuple[Tokens, ...]]:
    closing = _closing_tokens(wording)
    candidates = tuple(tuple(_ids(wording.label_prefix + answer, wording)) + closing for answer in answers)
    return tuple(_ids(prompt, wording, special=wording.special_tokens)), candidates


def _tokenise_classifier(prompt: str, answers: Sequence[str], wording: Wording) -> tuple[Tokens, tuple[Tokens, ...]]:
    candidates = tuple((wording.classes[answer],) for answer in answers)
    return tuple(_ids(prompt, wording, special=wording.special_tokens)), candidates


TOKENISE: dict[Kind, Callable[[str, Sequence[str], Wording], tuple[Tokens, tuple[Tokens, ...]]]] = {
    "causal": _tokenise_causal,
    "encoder_decoder": _tokenise_encoder_decoder,
    "classifier": _tokenise_classifier,
}


def _ids(text: str, wording: Wording, *, special: bool = False) -> list[int]:
    ids: list[int] = wording.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def _shared(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with alike."""
    return next(
        (index for index, column in enumerate(zip(*sequences, strict=False)) if len(set(column)) > 1),
        min(map(len, sequences)),
    )


def _opening_tokens(wording: Wording) -> Tokens:
    """What the tokenizer puts before any text, such as a beginning-of-sequence token."""
    bare, whole = _ids("a", wording), _ids("a", wording, special=True)
    starts = (start for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
    return tuple(whole[: next(starts, 0)])


def _closing_tokens(wording: Wording) -> Tokens:
    """A generated text must also end; a label need not, as its rivals end after as many words."""
    end: int | None = wording.tokenizer.eos_token_id
    return (end,) if wording.task.kind is TaskKind.generation and end is not None else ()


def _check_candidates(candidates: Sequence[Tokens], answers: Sequence[str]) -> None:
    seen: dict[Tokens, str] = {}
    for candidate, answer in zip(candidates, answers, strict=True):
        if not candidate:
            raise InvalidLabels(f"the tokenizer leaves nothing of the answer {answer!r}", param="task.labels")
        if candidate in seen:
            raise InvalidLabels(
                f"the answers {seen[candidate]!r} and {answer!r} are the same tokens for this model: reword one",
                param="task.labels",
            )
        seen[candidate] = answer


def _fits(example: Example, wording: Wording) -> bool:
    if wording.max_tokens is None:
        return True
    answer = max(len(candidate) for candidate in example.candidates)
    return max(row_tokens(example, wording.kind), answer) <= wording.max_tokens


def _shorten(row: Row, fields: Mapping[str, str], wording: Wording, make: Maker) -> Example:
    """The example with the longest fields cut to the greatest common number of words that fits (bisection)."""
    low, high = 0, max(len(WORD.findall(text)) for text in fields.values())
    best = _capped(row, fields, 0, wording, make)
    if not _fits(best, wording):
        raise _too_long(row, best, wording)
    while high - low > 1:
        middle = (low + high) // 2
        example = _capped(row, fields, middle, wording, make)
        low, high, best = (middle, high, example) if _fits(example, wording) else (low, middle, best)
    return best


def _capped(row: Row, fields: Mapping[str, str], words: int, wording: Wording, make: Maker) -> Example:
    return make(row, {column: first_words(text, words) for column, text in fields.items()}, wording)


def _too_long(row: Row, example: Example, wording: Wording) -> InvalidData | InvalidTemplate:
    answer = max(len(candidate) for candidate in example.candidates)
    if wording.task.kind is TaskKind.generation and answer > len(example.prompt):
        return InvalidData(
            f"line {row.line} has a target of {answer} tokens; with its prompt the model takes {wording.max_tokens}"
        )
    return InvalidTemplate(
        f"the template alone takes {row_tokens(example, wording.kind)} tokens with its answer; "
        f"the model takes {wording.max_tokens}: shorten it",
        param="task.template",
    )


def _max_tokens(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int | None:
    """The lesser of what tokenizer and position embeddings allow; relative positions allow any number."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**9 else []
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        # RoBERTa counts its positions from the padding token's index on.
        limits.append(positions - (config.pad_token_id + 1 if config.model_type == "roberta" else 0))
    return min(limits, default=None)
