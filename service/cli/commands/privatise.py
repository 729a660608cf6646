"""The command `taskslim privatise`: replaces the tokens and labels of rows before they leave this machine."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from service.cli.options.privatise import (
    Epsilon,
    LabelEpsilon,
    Mechanism,
    Output,
    RareRows,
    RowsFile,
    Seed,
    TextColumns,
    TokenModel,
)
from service.cli.options.slim import Kind, Labels, TargetColumn, TaskWords
from service.cli.row_files import place_of
from service.cli.short_request import OPTIONS, TARGET, Answer, model_of, wording_of, wrong
from service.contract.errors import InvalidRequest, TaskslimError
from service.contract.request.presets import resolve
from service.contract.request.task import TaskWording
from service.privacy.columns import PrivateColumns, columns_of
from service.privacy.mechanisms import MAX_UNCHANGED, MechanismName
from service.reports.formatting import count, percent
from service.rows.checks import check_rows, have_answers
from service.rows.labels import with_named_labels
from service.rows.row import Row
from service.storage.row_formats import checked_line, read_file

if TYPE_CHECKING:
    from service.privacy.private_rows import PrivateRows

EXTRA = ("numpy", "tokenizers", "huggingface_hub", "pyarrow")  # packages of the extra `privacy`
NOT_INSTALLED = "taskslim privatise needs the extra `privacy`: pip install 'taskslim[privacy]'"
ENDING = ".private.jsonl"
STATEMENT = "{}.privacy.json"

app = typer.Typer()
out = Console()
err = Console(stderr=True)


@app.command()
def privatise(
    rows: RowsFile,
    model: TokenModel,
    epsilon: Epsilon,
    label_epsilon: LabelEpsilon = None,
    task: TaskWords = None,
    labels: Labels = None,
    target: TargetColumn = None,
    kind: Kind = None,
    columns: TextColumns = None,
    output: Output = None,
    mechanism: Mechanism = MechanismName.exponential,
    rare: RareRows = 2,
    seed: Seed = None,
) -> None:
    """Replace the tokens and labels of rows at random, with differential privacy, and write them to a file.

    Nothing is sent. Beside the file a statement says what is guaranteed; see docs/privacy.md.
    """
    source, place = model_of(model), _local_file(rows)
    path = place.with_name(f"{place.stem}{ENDING}") if output is None else output
    _check_output(path, place)
    _check_budget("--epsilon", epsilon)
    asked = _asked(columns, task, Answer(kind, labels, target))
    with _extra_installed():
        from service.privacy.model_tokens import read_model_tokens
        from service.privacy.private_rows import make_private, mechanism_of
        from service.privacy.statement import as_json, budgets, statement
        from service.privacy.uniform_numbers import from_seed, from_system

        found, private = _read(place, asked, target)
        _check_labels(private, label_epsilon)
        tokens = read_model_tokens(source)
    chosen = mechanism_of(mechanism, tokens.space, epsilon)
    _check_changes(epsilon, chosen.unchanged_share())
    uniform = from_system if seed is None else from_seed(seed)
    made = make_private(found, private, tokens, chosen, label_epsilon, uniform, rare)
    content = statement(made, chosen, tokens, label_epsilon, seeded=seed is not None)
    lines = [checked_line(replace(row, values=values)) for row, values in zip(found, made.rows, strict=True)]
    _write(path, b"".join(lines))
    _write(Path(STATEMENT.format(path)), as_json(content).encode())
    _say(made, budgets(made, chosen, label_epsilon), seeded=seed is not None)
    out.print(str(path), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _extra_installed() -> Iterator[None]:
    """Raise TaskslimError where a package of the extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise TaskslimError(f"{NOT_INSTALLED} ({error.name} is missing)") from error


# --- what is checked before any row is read ------------------------------------------------------------------------


def _local_file(text: str) -> Path:
    place = place_of("ROWS", text)
    if isinstance(place, str):
        raise wrong("ROWS", "rows become private where they are: give a file of this machine")
    return place


def _check_output(path: Path, place: Path) -> None:
    if path.suffix != ".jsonl":
        raise wrong("--output", f"{path} does not end in .jsonl, which is what is written: rename it")
    if not path.parent.is_dir():
        raise wrong("--output", f"there is no directory {path.parent}: create it")
    if path.resolve() == place.resolve():
        raise wrong("--output", "this is the file of the rows: give another one")


def _check_budget(option: str, epsilon: float) -> None:
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise wrong(option, f"a budget is a number above 0, and {epsilon:g} is none: give one such as 8")


def _asked(columns: str | None, task: str | None, answer: Answer) -> TaskWording | PrivateColumns:
    """The task whose rows these are, or the columns with texts. Raises BadParameter."""
    if columns is None:
        return wording_of(task, answer)
    given = {"--task": task, "--labels": answer.labels, "--target": answer.target_column, "--kind": answer.kind}
    for option, value in given.items():
        if value is not None:
            raise wrong(option, "--columns names texts without answers: leave out the one or the other")
    names = tuple(dict.fromkeys(name.strip() for name in columns.split(",") if name.strip()))
    if not names:
        raise wrong("--columns", "it names no column: give names such as text,title")
    return PrivateColumns(texts=names)


# --- what the rows and the model decide ----------------------------------------------------------------------------


def _read(place: Path, asked: TaskWording | PrivateColumns, target: str | None) -> tuple[list[Row], PrivateColumns]:
    """The rows of a file, with labels as the task names them, and the columns to write.

    Raises InvalidData, BadParameter.
    """
    rows = read_file(place)
    if isinstance(asked, PrivateColumns):
        return rows, asked
    task = resolve(asked)
    if target not in (None, TARGET):
        rows = [_renamed(row, target) for row in rows]
    rows = with_named_labels(rows, task)
    try:
        private = columns_of(task, answered=have_answers(rows, task))
    except InvalidRequest as error:
        raise wrong(OPTIONS[(error.param or "").rpartition(".")[2]], error.message) from error
    check_rows(rows, task, answered=bool(private.labels) or TARGET in private.texts)
    return rows, private


def _renamed(row: Row, target: str | None) -> Row:
    values = {TARGET if column == target else column: value for column, value in row.values.items() if column != TARGET}
    return replace(row, values=values)


def _check_labels(columns: PrivateColumns, epsilon: float | None) -> None:
    """Raise BadParameter unless there is a budget for labels where these are written, and none where they are not."""
    if not columns.labels:
        if epsilon is not None:
            raise wrong("--label-epsilon", "no labels are written: leave it out")
        return
    if epsilon is None:
        raise wrong("--label-epsilon", "the rows have labels: say what each may cost, such as 2")
    _check_budget("--label-epsilon", epsilon)
    from service.privacy.randomised_response import kept_probability

    kept = kept_probability(epsilon, columns.choices)
    if kept > MAX_UNCHANGED:
        raise wrong("--label-epsilon", _too_large(epsilon, "labels", kept))


def _check_changes(epsilon: float, share: float) -> None:
    if share > MAX_UNCHANGED:
        raise wrong("--epsilon", _too_large(epsilon, "tokens", share))


def _too_large(epsilon: float, what: str, share: float) -> str:
    return (
        f"with {epsilon:g} about {percent(share)} of the {what} stay as they are, so that nothing is private: "
        f"give less; at most {percent(MAX_UNCHANGED, 0)} may stay"
    )


# --- output --------------------------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise wrong("--output", f"{path} cannot be written: {error.strerror or error}") from error


def _say(made: "PrivateRows", costs: Sequence[float], *, seeded: bool) -> None:
    """What the rows cost and what stayed, on standard error: the second is not for the server."""
    tokens, unchanged = sum(made.tokens), made.unchanged
    lines = [
        f"{count(len(made.rows))} rows, {count(tokens)} tokens; a row costs epsilon {median(costs):.4g} in the median "
        f"and {max(costs):.4g} at most",
        f"{count(unchanged.tokens)} tokens stayed as they were, among them {count(unchanged.rare_unchanged)} of "
        f"{count(unchanged.rare_tokens)} that fewer than {unchanged.rare_rows} rows have",
    ]
    for line in lines:
        err.print(line, markup=False, highlight=False, soft_wrap=True)
    if seeded:
        err.print("the random numbers come from --seed, so that nothing is protected", style="red", soft_wrap=True)
