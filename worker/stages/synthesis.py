"""The synthesis of calibration rows and rationales (after PPC-GPT, Fan et al., arXiv 2502.15857).

The paper's text says that a server writes data, answers and rationales from private rows, and not how. Ours: a row is
kept where the dense model's own answer to it is the intended one, a rationale where the writer, given it, finds the
right answer. What is kept joins the calibration rows, and never those that are evaluated on or held out.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from service.contract.answers.job import Stage
from service.contract.answers.report import Synthesised
from service.contract.errors import InvalidData, InvalidTemplate, blaming_task
from service.contract.options import DropReason, TaskKind
from service.contract.request.presets import LABEL_COLUMN, TARGET_COLUMN, resolve, template_fields
from service.contract.request.synthesis import (
    blaming_writer,
    check_reader_of_rationales,
    check_rows,
    check_task,
    check_writer,
)
from service.contract.request.task import Synthesis, Task, TaskWording
from service.rows.row import Row
from service.rows.words import first_words
from worker.checkpoints.loading import load_model
from worker.data import encoding, prompts
from worker.data.examples import Example
from worker.data.wordings import Wording
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet
from worker.stages.inputs import Sources
from worker.stages.task_model import Examples, TaskModel, answer_rows, device, encode, with_examples, worded
from worker.stages.task_model import Synthesis as Found
from worker.synthesis import drafts, further_rows, rationales
from worker.synthesis.drafts import Draft
from worker.synthesis.writer import Writer


def extend(context: JobContext, sources: Sources, sets: Sequence[EvaluationSet]) -> list[EvaluationSet]:
    """The sets with the rows and rationales that the job asks for among their calibration rows.

    Raises InvalidRequest for a task, rows or a model that rows cannot be written for, and InvalidModel for a writer
    that cannot be loaded or whose chat template cannot be used.
    """
    places = iter(context.job.request.placed_tasks.items())
    tasks = [next(places) if each.role in SLIMMED_FOR else None for each in sets]
    if not any(placed is not None and placed[1].synthesis is not None for placed in tasks):
        return list(sets)
    with context.stage(Stage.synthesise):
        for each, placed in zip(sets, tasks, strict=True):
            if placed is not None:
                _check(each.task_model, *placed)
        given = [requested.calibration for requested in sources.rows]
        return [
            each if placed is None else _extended(context, sources, each, placed, rows)
            for each, placed, rows in zip(sets, tasks, given, strict=True)
        ]


def _check(task_model: TaskModel, place: str, task: Task) -> None:
    with blaming_task(place):
        resolved = resolve(task)
        check_task(resolved)
        check_reader_of_rationales(resolved, task_model.loaded.family.kind)
        if task.synthesis is None:
            return
        check_rows(len(task_model.calibration.examples))
        if task.synthesis.model is None:
            check_writer(task_model.loaded.family.kind, is_own=True)


def _extended(
    context: JobContext, sources: Sources, each: EvaluationSet, placed: tuple[str, Task], given: Sequence[Row]
) -> EvaluationSet:
    place, task = placed
    if task.synthesis is None:
        return each
    with blaming_task(place):
        writer = _writer(context, sources, each.task_model, place, task.synthesis)
        running = _Synthesis(context, each.task_model, writer, task.synthesis, given)
        return replace(each, task_model=running.extended())


def _writer(context: JobContext, sources: Sources, task_model: TaskModel, place: str, synthesis: Synthesis) -> Writer:
    tokens = context.settings.tokens_per_batch
    if synthesis.model is None:
        return Writer.of(task_model.loaded, tokens)
    files = sources.writers[place]
    with blaming_writer():
        loaded = load_model(files.model, device=device(context.settings.device), adapter=files.adapter)
        check_writer(loaded.family.kind, is_own=False)
        return Writer.of(loaded, tokens)


@dataclass(frozen=True)
class _Synthesis:
    """The synthesis of one task: its model with the given rows in tokens, and these rows."""

    context: JobContext
    task_model: TaskModel
    writer: Writer
    synthesis: Synthesis
    given: Sequence[Row]

    @property
    def wording(self) -> Wording:
        return self.task_model.wording

    @property
    def task(self) -> TaskWording:
        return self.wording.task

    def extended(self) -> TaskModel:
        """The model with the kept rows behind the given ones, each with its rationale where one was kept."""
        written = self._rows()
        rows = [draft.row for draft in drafts.kept(written) if draft.row is not None]
        calibration = self._joined(rows)
        explained = self._rationales([*self.given, *rows]) if self.synthesis.rationales else []
        if explained:
            calibration = replace(calibration, examples=self._with_rationales(calibration.examples, explained))
        labels = () if self.task.kind is TaskKind.generation else self.wording.words
        counts = Counter(row.text(LABEL_COLUMN) for row in rows) if labels else Counter()
        source = self.synthesis.model or self.context.job.request.model
        found = Synthesised(
            writer=source.uri,
            chat=self.writer.chats,
            given=len(self.given),
            rows=drafts.counted(written) if self.synthesis.rows else None,
            labels={label: counts[label] for label in labels},
            rationales=drafts.counted(explained) if self.synthesis.rationales else None,
        )
        lines = [draft.values("written") for draft in written] + [draft.values("rationale") for draft in explained]
        return replace(self.task_model, calibration=calibration, synthesis=Found(found, lines))

    # --- rows

    def _rows(self) -> list[Draft]:
        if not self.synthesis.rows:
            return []
        asked = prompts.sample_prompt(self.wording)
        count = self._counter(self.synthesis.rows, "rows")
        written = further_rows.write(self.writer, self.task, asked, self.given, self.synthesis, count)
        written = drafts.judged(written, [self._fits(draft) for draft in drafts.kept(written)], DropReason.too_long)
        rows = [draft.row for draft in drafts.kept(written) if draft.row is not None]
        return drafts.judged(written, self._are_consistent(rows), DropReason.inconsistent)

    def _fits(self, draft: Draft) -> bool:
        """Whether the dense model takes the row."""
        assert draft.row is not None
        return _encoded(draft.row, self.wording) is not None

    def _are_consistent(self, rows: Sequence[Row]) -> list[bool]:
        """Whether the dense model gives each row the answer that it was written with."""
        if not rows:
            return []
        asked = replace(self.task_model, evaluation=self._encode(rows))
        answers = answer_rows(self.context, asked, self._counter(2 * len(rows), "answers"))
        if not self.task_model.generates:
            return (answers.scores.score_EL.argmax(dim=1) == answers.scores.answer_E).tolist()
        pairs = zip(answers.texts or (), rows, strict=True)
        return [rationales.agree(text, row.targets()[0]) for text, row in pairs]

    def _encode(self, rows: Sequence[Row]) -> Examples:
        remember = bool(self.task_model.calibration.texts)
        tokens = self.context.settings.tokens_per_batch
        padding = self.task_model.padding
        return encode(list(rows), "task.calibration", self.wording, padding, tokens, remember=remember)

    def _joined(self, rows: Sequence[Row]) -> Examples:
        """The calibration rows with the written ones behind them."""
        calibration = self.task_model.calibration
        if not rows:
            return calibration
        more = self._encode(rows)
        examples = [*calibration.examples, *(replace(example, is_written=True) for example in more.examples)]
        joined = with_examples(self.context, self.task_model, calibration, examples)
        texts = {**calibration.texts, **more.texts}
        return replace(joined, shortened=calibration.shortened + more.shortened, texts=texts)

    # --- rationales

    def _rationales(self, rows: Sequence[Row]) -> list[Draft]:
        """The rationale of each row, in their order."""
        asked = [self._prompt_and_answer(row) for row in rows]
        chats, most = self.writer.chats, self.writer.most_prompt_tokens(rationales.MAX_TOKENS)
        opening = rationales.opening(chats=chats)
        tokens = [self.writer.prompt(rationales.question(*each, chats=chats), opening) for each in asked]
        short = [most is None or len(each) <= most for each in tokens]
        prompted = [each for each, is_short in zip(tokens, short, strict=True) if is_short]
        texts = iter(self.writer.write(prompted, rationales.MAX_TOKENS, self._counter(len(rows), "rationales")))
        found, known = [], set[str]()
        for row, is_short in zip(rows, short, strict=True):
            text = rationales.read(next(texts)) if is_short else ""
            reason = self._reason(text, row, known) if is_short else DropReason.too_long
            known.add(text.casefold())
            found.append(Draft(text, row, reason))
        parts = [(draft.text, *each) for draft, each in zip(found, asked, strict=True) if draft.dropped is None]
        count = self._counter(len(parts), "answers")
        leads = rationales.lead_to_answers(self.writer, self.task, parts, count)
        return drafts.judged(found, leads, DropReason.inconsistent)

    def _reason(self, text: str, row: Row, known: set[str]) -> DropReason | None:
        if not text:
            return DropReason.malformed
        if text.casefold() in known:
            return DropReason.duplicate
        return None if self._rationale(text, row) else DropReason.too_long

    def _prompt_and_answer(self, row: Row) -> tuple[str, str]:
        template = self.task.template or ""
        columns = template_fields(template)
        prompt = prompts.render(template, {name: first_words(row.text(name), self.task.max_words) for name in columns})
        written = self.task.kind is TaskKind.generation
        return prompt, row.targets()[0] if written else self.wording.words[row.text(LABEL_COLUMN)]

    def _with_rationales(self, examples: Sequence[Example], explained: Sequence[Draft]) -> list[Example]:
        """The examples with the rationales of their rows, which are in the same order."""
        return [
            example
            if draft.dropped is not None or draft.row is None
            else replace(example, rationale=self._rationale(draft.text, draft.row))
            for example, draft in zip(examples, explained, strict=True)
        ]

    def _rationale(self, text: str, row: Row) -> Example | None:
        """A rationale as the answer to a prompt of the dense model; None where it takes no text as long."""
        return _encoded(replace(row, values=row.values | {TARGET_COLUMN: text}), self._rationale_wording)

    @cached_property
    def _rationale_wording(self) -> Wording:
        """How a rationale is written as the answer to a prompt of the dense model."""
        task, tokens = rationales.written_as(self.task), self.context.settings.tokens_per_batch
        return worded(self.task_model.loaded, task, tokens)[0]

    def _counter(self, total: int, unit: str) -> Callable[[int], None]:
        return lambda done: self.context.progress.advance(min(done, total), total, unit)


def _encoded(row: Row, wording: Wording) -> Example | None:
    """The row in tokens; None where the model does not take as many."""
    try:
        [example], _ = encoding.encode([row], wording)
    except (InvalidData, InvalidTemplate):
        return None
    return example
