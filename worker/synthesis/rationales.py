"""Rationales of right answers: the prompts that ask for them, and whether the writer, given one, finds the answer."""

from collections.abc import Callable, Sequence

from service.contract.options import TaskKind
from service.contract.request.presets import LABEL_COLUMN, TARGET_COLUMN
from service.contract.request.task import TaskWording
from service.contract.row_values import RowValues
from service.rows.row import Row
from worker.data import batching, encoding
from worker.evaluation import answer_scores, generation
from worker.evaluation.task_metrics import token_f1
from worker.synthesis.writer import ASKED, CONVERSATION, Writer, asking

MAX_TOKENS = 64  # of a rationale
AGREEMENT = 0.5  # the least F1 of the words of two texts that count as one answer
OPENING = "Reason:"
WHY = "Explain in one or two sentences why this is the right answer."


def written_as(task: TaskWording) -> TaskWording:
    """The task of a model that writes the rationale of an answer, without knowing the answer, to a prompt of `task`."""
    template = f"{task.template}\n{OPENING}"
    return TaskWording(
        kind=TaskKind.generation,
        template=template,
        max_words=task.max_words,
        special_tokens=task.special_tokens,
    )


def question(prompt: str, answer: str, *, chats: bool) -> str:
    """What the writer is asked for the rationale of an answer to a prompt of the task."""
    asked = f"{prompt} {answer}"
    return f"{asked}\n\n{WHY}" if chats else asked


def opening(*, chats: bool) -> str:
    """How a rationale begins."""
    return "" if chats else OPENING


def read(text: str) -> str:
    """The rationale in what was written: its first paragraph, on one line."""
    return " ".join(text.strip().split("\n\n", 1)[0].split())


def agree(text: str, answer: str) -> bool:
    """Whether two written answers are the same one, as far as their words tell."""
    return token_f1(text.strip(), [answer.strip()]) >= AGREEMENT


def lead_to_answers(
    writer: Writer,
    task: TaskWording,
    asked: Sequence[tuple[str, str, str]],
    on_examples: Callable[[int], None],
) -> list[bool]:
    """Whether the writer finds each answer, given its rationale; `asked` are (rationale, prompt, answer).

    A label counts as found where it is the most likely one, a written answer where it agrees with the right one. Raises
    InvalidLabels where two labels are the same tokens for the writer.
    """
    if not asked:
        return []
    if task.kind is TaskKind.generation:
        return _written_answers(writer, asked, on_examples)
    return _most_likely_labels(writer, task, asked, on_examples)


def _most_likely_labels(
    writer: Writer, task: TaskWording, asked: Sequence[tuple[str, str, str]], on_examples: Callable[[int], None]
) -> list[bool]:
    words = {word: word for word in (task.labels or {}).values()}
    as_asked = TaskWording(kind=TaskKind.classification, labels=words)
    wording, padding = asking(writer.loaded, as_asked, writer.tokens_per_batch)
    examples, _ = encoding.encode(_rows(writer, asked, LABEL_COLUMN), wording)
    batches = batching.batches(examples, padding, writer.tokens_per_batch)
    scores = answer_scores.score(writer.loaded.model, batches, on_examples)
    return (scores.score_EL.argmax(dim=1) == scores.answer_E).tolist()


def _written_answers(
    writer: Writer, asked: Sequence[tuple[str, str, str]], on_examples: Callable[[int], None]
) -> list[bool]:
    examples, _ = encoding.encode(_rows(writer, asked, TARGET_COLUMN), writer.wording)
    found = generation.generate(
        writer.loaded.model, examples, writer.wording, writer.padding, writer.tokens_per_batch, on_examples
    )
    return [agree(text, answer) for text, (_, _, answer) in zip(found, asked, strict=True)]


def _rows(writer: Writer, asked: Sequence[tuple[str, str, str]], column: str) -> list[Row]:
    """The questions as rows of the writer: the rationale, and behind it the prompt."""
    return [
        Row(_values(f"{OPENING} {rationale}\n\n{prompt}", answer, column, chats=writer.chats), number, "rationale")
        for number, (rationale, prompt, answer) in enumerate(asked, start=1)
    ]


def _values(question: str, answer: str, column: str, *, chats: bool) -> RowValues:
    if not chats:
        return {ASKED: question, column: answer}
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {CONVERSATION: messages, column: answer}
