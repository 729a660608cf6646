"""Turns rows into token sequences: the prompt of an example and its candidate answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from service.contract.errors import InvalidData, InvalidLabels, InvalidTemplate
from service.contract.options import TaskKind
from service.contract.request.presets import LABEL_COLUMN, template_fields
from service.models.families.family import Kind
from service.rows.row import Row
from service.rows.words import WORD, first_words
from worker.data import chats
from worker.data.examples import Example
from worker.data.tokenising import TOKENISE
from worker.data.wordings import Tokens, Wording

OWN_ANSWER_TOKENS = 64  # at most, of an answer that the model itself gives to a row without one
NO_LABEL = "no label"
ONLY_OUTPUT: Tokens = (0,)  # of a regression head


@dataclass(frozen=True)
class _Question:
    """What a row asks: its texts, of which words may be cut, and how they become a prompt and the right texts.

    Each text keeps at least `least` words. The right texts are those of a generation task; empty where there are none.
    """

    row: Row
    texts: Mapping[str, str]
    ask: Callable[[Mapping[str, str]], tuple[str, list[str]]]
    least: int = 0


Maker = Callable[[_Question, Mapping[str, str], Wording], Example]


def encode(
    rows: Sequence[Row], wording: Wording, *, answered: bool = True, every_answer: bool = False
) -> tuple[list[Example], int]:
    """(examples of checked rows, number of prompts that were shortened to the tokens that the model takes).

    A row is one example; with `every_answer` every answer of a conversation is one, else the last. A prompt is
    shortened by cutting words from the end of its longest fields or messages; the template stays whole. Rows that are
    not `answered` give examples without an answer, which `worker.stages.pseudo_labels` fills in. Raises InvalidData,
    InvalidLabels, InvalidTemplate, InvalidModel.
    """
    make = _example if answered else _open_example
    shortened, examples = 0, []
    for row in rows:
        for question in _questions(row, wording, answered=answered, every_answer=every_answer):
            example = make(question, question.texts, wording)
            if not _fits(example, wording):
                shortened += 1
                example = _shorten(question, wording, make)
            examples.append(example)
    return examples, shortened


def _questions(row: Row, wording: Wording, *, answered: bool, every_answer: bool) -> list[_Question]:
    template, is_written = wording.task.template or "", answered and wording.task.kind is TaskKind.generation
    if wording.chat is not None:
        turns = chats.turns(row, wording, answered=answered, every=every_answer)
        return [_Question(row, turn.texts, partial(turn.ask, wording), least=1) for turn in turns]
    texts = {column: first_words(row.text(column), wording.task.max_words) for column in template_fields(template)}
    targets = row.targets() if is_written else []
    return [_Question(row, texts, lambda given: (render(template, given), targets))]


def render(template: str, fields: Mapping[str, str]) -> str:
    """The template with its {column} fields filled in. `template_fields` has checked that there are no others."""
    return template.format_map(fields)


def row_tokens(example: Example, kind: Kind) -> int:
    """Tokens of the longest input row of an example; the last token of an answer is scored and not read."""
    answer = max(len(candidate) for candidate in example.candidates)
    return len(example.prompt) + (answer - 1 if kind == "causal" else 0)


def sample_prompt(wording: Wording) -> str:
    """A prompt of the task, with dots in place of a row's texts."""
    if wording.chat is not None:
        return chats.sample(wording)
    template = wording.task.template or ""
    return render(template, dict.fromkeys(template_fields(template), "..."))


def _example(question: _Question, texts: Mapping[str, str], wording: Wording) -> Example:
    prompt, targets = question.ask(texts)
    if wording.task.kind is TaskKind.regression:
        return _with_number(prompt, question.row.number(LABEL_COLUMN), wording)
    if wording.task.kind is TaskKind.multi_label:
        return _with_labels(prompt, question.row.labels(LABEL_COLUMN), wording)
    if wording.task.kind is TaskKind.generation:
        return _written_example(prompt, targets, wording)
    answers, right = list(wording.words.values()), list(wording.words).index(question.row.text(LABEL_COLUMN))
    tokens, candidates = TOKENISE[wording.kind](prompt, answers, wording)
    _check_candidates(candidates, answers)
    return Example(tokens, candidates, right, answers[right])


def _written_example(prompt: str, targets: Sequence[str], wording: Wording) -> Example:
    [target, *others] = targets
    tokens, candidates = TOKENISE[wording.kind](prompt, [target], wording)
    _check_candidates(candidates, [target])
    if wording.chat is not None:  # as the text of generated tokens is read
        target = str(wording.tokenizer.decode(list(candidates[0][:-1]), skip_special_tokens=True))
    more = [TOKENISE[wording.kind](prompt, [other], wording)[1][0] for other in others]
    return Example(tokens, candidates, 0, target, tuple(others), max(map(len, more), default=0))


def _with_labels(prompt: str, right: Sequence[str], wording: Wording) -> Example:
    """An example with several right labels, or none; the candidates are all labels."""
    tokens, candidates = TOKENISE[wording.kind](prompt, list(wording.words.values()), wording)
    target = tuple(float(label in right) for label in wording.words)
    return Example(tokens, candidates, 0, labels_text(list(wording.words), target), target=target)


def labels_text(labels: Sequence[str], target: Sequence[float]) -> str:
    """The labels that are right, as one text."""
    return ", ".join(label for label, is_right in zip(labels, target, strict=True) if is_right) or NO_LABEL


def _open_example(question: _Question, texts: Mapping[str, str], wording: Wording) -> Example:
    """An example without its answer. The first label takes its place, zero, or empty tokens for a generated text."""
    prompt, _ = question.ask(texts)
    if wording.task.kind is TaskKind.regression:
        return _with_number(prompt, 0.0, wording)
    if wording.task.kind is TaskKind.multi_label:
        return _with_labels(prompt, (), wording)
    answers = list(wording.words.values())
    tokens, candidates = TOKENISE[wording.kind](prompt, answers, wording)
    if wording.task.kind is TaskKind.generation:
        return Example(tokens, ((0,) * _room(wording),), 0, "")
    _check_candidates(candidates, answers)
    return Example(tokens, candidates, 0, "")


def _with_number(prompt: str, number: float, wording: Wording) -> Example:
    """An example of a regression, whose one candidate is the one output of the head."""
    tokens, _ = TOKENISE[wording.kind](prompt, (), wording)
    return Example(tokens, (ONLY_OUTPUT,), 0, number_text(number), target=(number,))


def number_text(number: float) -> str:
    """A number as the answer to a row."""
    return f"{number:.6g}"


def _room(wording: Wording) -> int:
    """Tokens that an answer of the model itself may have."""
    return OWN_ANSWER_TOKENS if wording.max_tokens is None else min(OWN_ANSWER_TOKENS, wording.max_tokens // 2)


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


def _shorten(question: _Question, wording: Wording, make: Maker) -> Example:
    """The example with its texts cut to the largest number of words that fits, found by bisection."""
    low, high = question.least, max(len(WORD.findall(text)) for text in question.texts.values())
    best = _capped(question, low, wording, make)
    if not _fits(best, wording):
        raise _too_long(question.row, best, wording)
    while high - low > 1:
        middle = (low + high) // 2
        example = _capped(question, middle, wording, make)
        low, high, best = (middle, high, example) if _fits(example, wording) else (low, middle, best)
    return best


def _capped(question: _Question, words: int, wording: Wording, make: Maker) -> Example:
    return make(question, {name: first_words(text, words) for name, text in question.texts.items()}, wording)


def _too_long(row: Row, example: Example, wording: Wording) -> InvalidData | InvalidTemplate:
    answer = max(len(candidate) for candidate in example.candidates)
    if wording.task.kind is TaskKind.generation and answer > len(example.prompt):
        return InvalidData(
            f"{row.position} has a target of {answer} tokens; with its prompt the model takes {wording.max_tokens}"
        )
    tokens = row_tokens(example, wording.kind)
    if wording.chat is not None:
        return InvalidData(
            f"{row.position} takes {tokens} tokens with its answer even if every message before it is cut to one word; "
            f"the model takes {wording.max_tokens}: leave messages out"
        )
    return InvalidTemplate(
        f"the template alone takes {tokens} tokens with its answer; the model takes {wording.max_tokens}: shorten it",
        param="task.template",
    )
