import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality_bench import page as quality_page
from benchmarks.quality_bench.cells import (
    BASELINES,
    LAYERWISE,
    MODEL_TASKS,
    OURS,
    SEEDS,
    T5_TASKS,
    TASKS,
    Cell,
    dense,
    finalists,
    grid,
    left,
    settings,
    slim,
)
from benchmarks.quality_bench.inputs import DEV_ROWS, SOURCES, divided
from benchmarks.quality_bench.measure import SHARED, Bench
from benchmarks.quality_bench.shared_pass import score_together
from benchmarks.quality_bench.store import Store
from benchmarks.quality_bench.summary import figures, half_width, kept, lead, row
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.data.rows import Row
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.repair.repairs import repair, repair_again
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.second_moments import Rows
from worker.slimming.selection import select
from worker.slimming.units import locate

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared"
BEST: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares"}


def record(accuracy: float) -> dict[str, Any]:
    interval = {"value": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05}
    return {"judged": 200, "accuracy": interval, "calibrated": interval, "majority": 0.5, "parameters": 1}


def records(*parts: tuple[list[Cell], float]) -> dict[str, Any]:
    return {cell.key: {**vars(cell), **record(value)} for cells, value in parts for cell in cells}


DENSE = [dense("smollm2", task) for task in TASKS]


def test_the_grid_holds_every_combination_once() -> None:
    cells = left(list(grid("smollm2", TASKS)), set())
    wanted = {
        slim("smollm2", task, method, ratio, layout=layout, repair=repair).key
        for task in TASKS
        for method in (OURS, "gisp", "second_moment", *BASELINES)
        for ratio in (0.3, 0.5, 0.7)
        for layout, repair in [*product(("uniform", "per_layer"), ("none", "least_squares")), ("per_layer", LAYERWISE)]
    }
    assert wanted <= {cell.key for cell in cells}
    assert len({cell.key for cell in cells}) == len(cells)


def test_the_cells_that_the_figures_need_come_first() -> None:
    needed = {
        cell.key for ratio in (0.3, 0.5, 0.7) for method in (OURS, *BASELINES) for cell in row(method, ratio, **BEST)
    }
    cells = [cell for cell in left(list(grid("smollm2", TASKS)), set()) if cell.method != "dense"]
    assert needed <= {cell.key for cell in cells[: len(needed) + 3 * len(TASKS)]}


def test_no_plan_judges_what_it_calibrates_on() -> None:
    for cell in [*grid("t5", T5_TASKS), *settings("smollm2", TASKS), *finalists("smollm2", TASKS)]:
        assert cell.split == "test"


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cells, path = list(grid("smollm2", TASKS)), tmp_path / "quality.json"
    Store(path).put(cells[0], record(0.9))
    again = Store(path)
    assert left(cells, set(again.records)) == left(cells, set())[1:]
    assert again.records[cells[0].key]["calibrated"]["value"] == 0.9


def test_runs_that_share_a_file_keep_each_others_cells(tmp_path: Path) -> None:
    path = tmp_path / "quality.json"
    first, second = Store(path), Store(path)
    first.put(DENSE[0], record(0.9))
    second.put(DENSE[1], record(0.8))
    assert set(Store(path).records) == {DENSE[0].key, DENSE[1].key}
    assert json.loads(path.read_text())["cells"]


def test_a_cell_survives_the_file() -> None:
    cell = slim("smollm2", "sst2", OURS, 0.5, **BEST)
    assert Cell.of(json.loads(json.dumps(vars(cell)))) == cell


def test_kept_is_the_mean_as_a_share_of_dense() -> None:
    cells = row(OURS, 0.5, **BEST)
    known = records((DENSE[:3], 0.8), (DENSE[3:], 0.6), (cells[:3], 0.7), (cells[3:], 0.56))
    assert kept(known, cells) == pytest.approx(0.63 / 0.7)
    # six shares p of 200 rows each: variance of their mean = sum p (1 - p) / 200 / 36
    expected = 1.96 * ((3 * 0.7 * 0.3 + 3 * 0.56 * 0.44) / 200) ** 0.5 / 6 / 0.7
    assert half_width(known, cells) == pytest.approx(expected)


def test_a_mean_with_a_task_missing_is_no_mean() -> None:
    cells = row(OURS, 0.5, **BEST)
    assert kept(records((DENSE, 0.8), (cells[1:], 0.7)), cells) is None


def test_the_lead_is_over_the_best_rival_and_waits_for_all() -> None:
    ours = row(OURS, 0.7, **BEST)
    rivals = [[replace(cell, method=name) for cell in ours] for name in BASELINES]
    values = [0.5, 0.7, 0.4, 0.6, 0.3]
    known = records((DENSE, 0.8), (ours, 0.6), *zip(rivals, values, strict=True))
    assert lead(known, ours, BASELINES) == pytest.approx((0.6 - 0.7) / 0.8 * 100)
    for cell in rivals[0]:
        del known[cell.key]
    assert lead(known, ours, BASELINES) is None


def test_the_figures_are_those_of_the_defaults() -> None:
    def defaults(method: str, rows: int = 200) -> list[Cell]:
        return row(method, 0.7, layout="per_layer", repair=LAYERWISE, rows=rows)

    known = records((DENSE, 0.8), (defaults(OURS), 0.6), (defaults("wanda"), 0.5), (row(OURS, 0.3, **BEST), 0.7))
    assert figures(known)["kept_at_70"] == pytest.approx(0.75)
    assert figures(known)["lead_at_70"] is None
    assert figures(known)["kept_at_30"] is None
    known |= records(
        (defaults("activation"), 0.56), *((defaults(name), 0.4) for name in ("flap", "random", "magnitude"))
    )
    assert figures(known)["lead_at_70"] == pytest.approx(5)
    known |= records(([dense("smollm2", task, rows=0) for task in TASKS], 0.8), (defaults(OURS, rows=0), 0.64))
    assert figures(known)["kept_at_70"] == pytest.approx(0.8)  # all test rows tell more


def test_dev_rows_are_never_calibrated_on() -> None:
    train = [Row({"text": str(line), "label": "a"}, line) for line in range(1, 1001)]
    dev, rest = divided(train)
    assert len(dev) == DEV_ROWS
    assert sorted(row.line for row in dev + rest) == list(range(1, 1001))


def test_the_page_shows_what_is_measured_and_keeps_what_others_wrote(tmp_path: Path) -> None:
    page = tmp_path / quality_page.PAGE
    page.write_text("# Results\n\nbefore\n")
    known = records((DENSE, 0.8), (row(OURS, 0.5, **BEST), 0.6))
    known |= records(([dense("smollm2", task, rows=0) for task in TASKS], 0.8), (row(OURS, 0.1, rows=0, **BEST), 0.76))
    known |= records(*((row("random", 0.7, seed=seed, **BEST), 0.4 + 0.04 * seed) for seed in SEEDS))
    quality_page.write(known, tmp_path)
    page.write_text(page.read_text() + "after\n")
    quality_page.write(known, tmp_path)
    text = page.read_text()
    assert text.count("75.0 ±") == 2
    assert "| surgeon | least squares | 95.0 ±" in text  # the finalists
    assert "| random, mean of seeds 0 to 2 | · | 55.0 |" in text
    assert text.index("before") < text.index("75.0 ±") < text.index("after")
    assert text.count("after\n") == 1
    assert (tmp_path / quality_page.FIGURE).stat().st_size > 1000


@pytest.mark.parametrize("method", ["least_squares", "least_squares_layerwise"])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_shared_pass_scores_and_repairs_as_separate_ones_do(family: str, method: str) -> None:
    architecture, units, rows = ARCHITECTURES[family], ["ffn", "heads"], batches(family, examples(12), 4)
    methods = {name: (name, Options()) for name in SHARED}
    model = TINY[family]()
    scores, moments = score_together(model, architecture, units, rows, methods)
    for name, (criterion, options) in methods.items():
        alone = score(model, architecture, units, rows, criterion, options)
        for site in alone:
            torch.testing.assert_close(scores[name][site], alone[site], rtol=1e-4, atol=1e-7)
    kept_units = select(scores["wanda"], locate(model, architecture, units), 0.5, 4)
    other = TINY[family]()
    repair_again(model, architecture, kept_units, Rows(rows, "margin"), method, moments)
    repair(other, architecture, kept_units, Rows(rows, "margin"), method)
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "models").exists(), reason="the trained T5 and its rows are not here")
def test_a_t5_is_trained_that_the_benchmark_can_ask(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/train_t5.py", str(tmp_path / "t5-large"), "--quick", "--data", str(DATA)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    accuracies = json.loads(ran.stdout.splitlines()[-1])
    assert set(MODEL_TASKS["t5-large"]) <= set(accuracies)
    bench = Bench({"t5-large": SOURCES["t5-large"](DATA, tmp_path)}, DATA / "data", tmp_path / "scores")
    for task in MODEL_TASKS["t5-large"]:
        judged = bench.measure(dense("t5-large", task, rows=8))
        assert judged["judged"] == 8
        assert judged["parameters"] == bench.loaded("t5-large").model.num_parameters()
