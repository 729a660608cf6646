"""RESULTS.md: each row of its quality tables is computed again from the measured cells in quality.csv.gz."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import neighbours, quality
from benchmarks.parts.neighbours import tables as neighbours_tables
from benchmarks.parts.quality import tables
from benchmarks.parts.quality.cells import (
    BLOCKS,
    DRAWS,
    FEW_ROWS,
    HEADLINE_FORMS,
    LAYERWISE,
    MODEL_TASKS,
    OTHER_TASKS,
    OURS,
    TASKS,
    TEST_ROWS,
    Cell,
    dense,
    slim,
)
from benchmarks.parts.quality.store import Store
from benchmarks.parts.quality.summary import Figure, half_width, kept, mean, row
from tests.support.documents import read, section

ROOT = Path(__file__).parents[1]
MEASURED = Store(ROOT / "benchmarks" / "results" / "quality.csv.gz").measurements
MODELS = {"SmolLM2": "smollm2", "T5": "t5"}
REPAIRS = {"none": "none", "least squares": "least_squares", "layerwise": LAYERWISE, "layer by layer": LAYERWISE}
LEAST_SQUARES: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares"}

FIGURES: tuple[Figure, ...] = ("value", "raw")

Table = list[list[str]]  # rows of cells; the first is the header


def quality_tables() -> Iterator[tuple[str, Table]]:
    """(last line of text before a table, the table) of every table of the section that has figures of cells."""
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    section = page[page.index("## Quality") :].partition("\n## ")[0]
    title, table = "", Table()
    for line in [*section.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            yield title, [table[0], *table[2:]]
            table = []
        elif line:
            title = line


TABLES = dict(quality_tables())
CRITERIA = [title for title in TABLES if title.startswith("Layout ")]
[FINALISTS] = [title for title, table in TABLES.items() if table[0][:3] == ["model", "criterion", "repair"]]
[HEADLINE] = [title for title, table in TABLES.items() if table[0][0] == "widths"]
[FEW] = [title for title, table in TABLES.items() if table[0][0] == "task"]
[OTHER] = [title for title, table in TABLES.items() if table[0][0] == "judged on"]
[SETTINGS] = [title for title, table in TABLES.items() if table[0][0] == "setting"]


def percent(text: str) -> float:
    """ "30 %" or "30 %, none" as 0.3."""
    return int(text.partition(" %")[0]) / 100


def shown(cells: Sequence[Cell], figure: Figure = "raw") -> str:
    """The figure of the cells as a table shows it."""
    share = kept(MEASURED, cells, figure)
    return "·" if share is None else f"{share * 100:.1f} ± {half_width(MEASURED, cells, figure) * 100:.1f}"


def test_every_table_is_compared_with_the_cells() -> None:
    assert len(CRITERIA) == 2
    assert set(TABLES) == {*CRITERIA, HEADLINE, FEW, OTHER, FINALISTS, SETTINGS}


def test_rows_of_the_headline_are_those_of_the_cells() -> None:
    header, dense_model, *rows = TABLES[HEADLINE]
    of = dict(zip(header[3:], (TASKS, *((task,) for task in OTHER_TASKS)), strict=True))
    counts = {name: TEST_ROWS if name == "six tasks" else 0 for name in of}
    for (name, tasks), found in zip(of.items(), dense_model[3:], strict=True):
        value = mean(MEASURED, [dense("smollm2", task, rows=counts[name]) for task in tasks], "value")
        assert value is not None
        assert found == f"{value:.3f}"
    assert len(rows) >= 3
    for widths, removed, criterion, *figures in rows:
        units, layout = HEADLINE_FORMS[["per layer, FFN and heads", "equal, FFN alone"].index(widths)]
        form: dict[str, Any] = {"units": units, "layout": layout, "repair": LAYERWISE}
        for (name, tasks), found in zip(of.items(), figures, strict=True):
            cells = row(criterion, int(removed.removesuffix("%")) / 100, tasks, rows=counts[name], **form)
            assert found == ("·" if name == "CoLA" else shown(cells, "value")), f"{widths} {removed} {criterion} {name}"


def test_rows_of_few_examples_are_those_of_the_cells() -> None:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    assert len(TABLES[FEW]) > 2
    for task, *figures in TABLES[FEW][1:]:
        drawn = [
            [slim("smollm2", task, OURS, 0.5, examples=count, draw="balanced", seed=draw, **form) for draw in DRAWS]
            for count in FEW_ROWS
        ]
        means = [[kept(MEASURED, [cell], figure) for cell in cells] for figure in FIGURES for cells in drawn]
        shares = [[share * 100 for share in of if share is not None] for of in means]
        texts = [f"{sum(of) / len(DRAWS):.1f} ({min(of):.1f} to {max(of):.1f})" for of in shares]
        whole = shown([slim("smollm2", task, OURS, 0.5, **form)], "value")
        assert figures == [*texts[:2], whole, *texts[2:]], task


def test_rows_of_other_domains_are_those_of_the_cells() -> None:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    for task, other, *figures in TABLES[OTHER][1:]:
        cells = [slim("smollm2", task, OURS, 0.5, calibration=each, **form) for each in (task, other)]
        assert figures == [shown([cell], "value") for cell in cells]


@pytest.mark.parametrize("title", CRITERIA)
def test_rows_of_criteria_are_those_of_the_cells(title: str) -> None:
    layout = "per_layer" if "`per_layer`" in title else "uniform"
    units = ("ffn",) if "alone" in title else BLOCKS
    header, *rows = TABLES[title]
    assert len(rows) >= 6
    for criterion, *figures in rows:
        for column, figure in zip(header[1:], figures, strict=True):
            repair = REPAIRS[column.partition(", ")[2]]
            cells = row(criterion, percent(column), layout=layout, repair=repair, units=units)
            assert figure == shown(cells), f"{title} {criterion}, {column}"


def test_rows_of_finalists_are_those_of_the_cells() -> None:
    header, *rows = TABLES[FINALISTS]
    assert {line[0] for line in rows} == set(MODELS)
    for model, criterion, repair, *figures in rows:
        name = MODELS[model]
        for column, figure in zip(header[3:], figures, strict=True):
            form: dict[str, Any] = {"layout": "per_layer", "repair": REPAIRS[repair], "rows": 0}
            cells = row(criterion, percent(column), MODEL_TASKS[name], name, **form)
            assert figure == shown(cells), f"{model}, {criterion}, {repair}, {column}"


def cells_of_setting(setting: str, model: str, criterion: str) -> list[Cell]:
    """The cells that a row of the table of settings names."""
    tasks = MODEL_TASKS[model]
    if found := re.fullmatch(r"(\d+) examples, class-balanced, (\d+ %) removed", setting):
        drawn: dict[str, Any] = {"examples": int(found[1]), "draw": "balanced"}
        return row(criterion, percent(found[2]), tasks, model, **LEAST_SQUARES, **drawn)
    if found := re.fullmatch(r"calibrated on (\w+), judged on (\w+), (\d+ %) removed", setting):
        return [slim(model, found[2], criterion, percent(found[3]), calibration=found[1], **LEAST_SQUARES)]
    found = re.fullmatch(r"(\d+ %) removed, labels: (those of the rows|the dense model's own answers)", setting)
    assert found is not None, setting
    supervision = "labels" if found[2] == "those of the rows" else "none"
    return row(criterion, percent(found[1]), tasks, model, supervision=supervision, **LEAST_SQUARES)


def test_rows_of_settings_are_those_of_the_cells() -> None:
    header, *rows = TABLES[SETTINGS]
    assert len(rows) >= 5
    for setting, *figures in rows:
        model = ""
        for column, figure in zip(header[1:], figures, strict=True):
            name, _, criterion = column.rpartition(": ")
            model = MODELS.get(name, model)
            if figure != "·":  # the table leaves out wanda where nothing compares it
                assert figure == shown(cells_of_setting(setting, model, criterion)), f"{setting}, {column}"


def test_tables_need_neither_models_nor_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality, "FIGURE", tmp_path / "quality.svg")
    monkeypatch.setattr(sys, "argv", ["quality.py", "--tables", "--data", str(tmp_path / "missing"), "--models", "t5"])
    quality.main()
    assert "| surgeon | layer by layer |" in capsys.readouterr().out
    assert (tmp_path / "quality.svg").exists()


def test_run_on_some_tasks_draws_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "FIGURE", tmp_path / "quality.svg")
    monkeypatch.setattr(sys, "argv", ["quality.py", "--tables", "--tasks", "sst2"])
    quality.main()
    assert not (tmp_path / "quality.svg").exists()


def test_page_of_other_kinds_has_the_rows_of_the_measurements() -> None:
    page = (ROOT / "benchmarks" / "results" / "kinds.md").read_text()
    shown = [line for line in page.splitlines() if re.match(r"\| \w+ \| \w+ \d\.\d{3} \|", line)]
    measured = "\n".join(tables.document(MEASURED).splitlines())
    assert len(shown) >= 8
    assert [line for line in shown if line not in measured] == []


def test_page_of_private_rows_has_the_figures_of_the_measurements() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "privacy.json").read_text())
    section_text = section(read("docs/privacy.md"), "What it costs in accuracy")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section_text.splitlines() if line[:1] == "|"
    ]
    shown = {row[0]: row[-2:] for row in rows[2:]}
    assert {"dense model", "rows as they are", "ε = 16"} <= shown.keys()
    for name, cells in shown.items():
        epsilon = {"rows as they are": "inf"}.get(name, name.removeprefix("ε = "))
        for task, cell in zip(("sst2", "ag_news"), cells, strict=True):
            key = f"{task}, dense" if name == "dense model" else f"{task}, labels, exponential, {epsilon}"
            if key in measured or cell != "·":
                found = measured[key]
                assert cell == f"{found['value']:.1%} ({found['low']:.0%} to {found['high']:.0%})".replace("%", ""), key


def test_page_of_neighbouring_methods_has_the_tables_of_the_measurements() -> None:
    page = (ROOT / "benchmarks" / "results" / "neighbours.md").read_text()
    measured = neighbours_tables.document(neighbours.read(neighbours.RESULTS)).splitlines()
    methods = ("| mixture |", "| shared_exclusive |", "| layerwise |", "| 2, ", "| 4, ", "| selectivity |")
    shown = [line for line in page.splitlines() if line.startswith(methods)]
    assert len(shown) >= 13
    assert [line for line in shown if line not in measured] == []
