"""Turns rows into token sequences: the prompt of an example and its candidate answers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from service.contract.errors import InvalidData, InvalidLabels, InvalidTemplate
from service.contract.options import TaskKind
from service.contract.presets import LABEL_COLUMN, TARGET_COLUMN, template_fields
from service.contract.rows import Row
from service.contract.task import TaskWording
from service.families.head_classes import head_classes
from service.families.positions import max_tokens
from service.families.table import FAMILIES, Kind

Tokens = tuple[int, ...]

# kind of family -> (whether the tokenizer adds its special tokens, the text between prompt and answer)
DEFAULTS: dict[Kind, tuple[bool, str]] = {
    "causal": (False, " "),
    "encoder_decoder": (True, ""),
    "classifier": (True, ""),
}
OWN_ANSWER_TOKENS = 64  # at most, of an answer that the model itself gives to a row without one
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Example:
    """A prompt and its candidate answers as tokens; `answer` is the index of the right one.

    For a decoder-only model a candidate continues the prompt; for an encoder-decoder it is the decoder's output; for a
    classification head it is the index of a class.
    """

    prompt: Tokens
    candidates: tuple[Tokens, ...]
    answer: int
    text: str  # the right answer as text


@dataclass(frozen=True)
class Wording:
    """How the prompts and answers of a task are written for a model."""

    kind: Kind
    task: TaskWording  # resolved
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int | None  # of prompt and answer; None: any number
    special_tokens: bool
    label_prefix: str
    classes: Mapping[str, int] = field(default_factory=dict)  # class name -> index, of a classification head

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
    """The task with the defaults of the model's family in the fields that the request left open."""
    return wording.task.model_copy(
        update={"special_tokens": wording.special_tokens, "label_prefix": wording.label_prefix}
    )


def encode(rows: Sequence[Row], wording: Wording, *, answered: bool = True) -> tuple[list[Example], int]:
    """(examples of checked rows, number of prompts that were shortened to the tokens that the model takes).

    A prompt is shortened by cutting words from the end of its longest fields; the template stays whole. Rows that are
    not `answered` give examples without an answer, which `worker.stages.pseudo_labels` fills in. Raises InvalidData,
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
    """The first `limit` words of a text with the white space between them; the whole text if `limit` is None."""
    ends = [word.end() for word in islice(WORD.finditer(text), limit)]
    if limit is None or len(ends) < limit:
        return text
    return text[: ends[-1]] if ends else ""


def render(template: str, fields: Mapping[str, str]) -> str:
    """The template with its {column} fields filled in. `template_fields` has checked that there are no others."""
    return template.format_map(fields)


def row_tokens(example: Example, kind: Kind) -> int:
    """Tokens of the longest input row of an example; the last token of an answer is scored and not read."""
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
    """An example without its answer. The first label takes its place, or empty tokens for a generated text."""
    prompt = render(wording.task.template or "", fields)
    answers = list(wording.words.values())
    tokens, candidates = TOKENISE[wording.kind](prompt, answers, wording)
    if wording.task.kind is TaskKind.generation:
        return Example(tokens, ((0,) * _room(wording),), 0, "")
    _check_candidates(candidates, answers)
    return Example(tokens, candidates, 0, "")


def _room(wording: Wording) -> int:
    """Tokens that an answer of the model itself may have."""
    return OWN_ANSWER_TOKENS if wording.max_tokens is None else min(OWN_ANSWER_TOKENS, wording.max_tokens // 2)


def _tokenise_causal(prompt: str, answers: Sequence[str], wording: Wording) -> tuple[Tokens, tuple[Tokens, ...]]:
    """The prompt ends where the candidates differ, because a tokenizer may merge tokens across the boundary."""
    opening = _opening_tokens(wording) if wording.special_tokens else ()
    prompt_ids = _ids(prompt, wording)
    whole = [_ids(prompt + wording.label_prefix + answer, wording) for answer in answers]
    shared = _shared([prompt_ids, *whole])
    if not opening and not shared:
        raise InvalidTemplate(
            "the prompt has no token before the answer: add text to the template", param="task.template"
        )
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
    """Number of tokens at the start that all sequences have in common."""
    return next(
        (index for index, column in enumerate(zip(*sequences, strict=False)) if len(set(column)) > 1),
        min(map(len, sequences)),
    )


def _opening_tokens(wording: Wording) -> Tokens:
    """The tokens that the tokenizer puts before a text, such as a beginning-of-sequence token."""
    bare, whole = _ids("a", wording), _ids("a", wording, special=True)
    starts = (start for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
    return tuple(whole[: next(starts, 0)])


def _closing_tokens(wording: Wording) -> Tokens:
    """The end token of a generated text. Labels have none: they compete as they are."""
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
    """The example with its fields cut to the largest number of words that fits, found by bisection."""
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
            f"{row.position} has a target of {answer} tokens; with its prompt the model takes {wording.max_tokens}"
        )
    return InvalidTemplate(
        f"the template alone takes {row_tokens(example, wording.kind)} tokens with its answer; "
        f"the model takes {wording.max_tokens}: shorten it",
        param="task.template",
    )


def _max_tokens(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int | None:
    """The smaller limit of tokenizer and position embeddings; None with relative positions, which have no limit."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**9 else []
    positions = max_tokens(FAMILIES[config.model_type], config.to_dict())
    return min([*limits, *([] if positions is None else [positions])], default=None)
