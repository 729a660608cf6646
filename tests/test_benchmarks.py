"""The quality benchmark: its plans, its file, its summary figures and tables, and its shared scoring pass."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.parts.quality import figure, tables, training
from benchmarks.parts.quality.cells import (
    BASELINES,
    BEST_BASELINES,
    DRAWS,
    HEAD_TASKS,
    LAYERWISE,
    MODEL_TASKS,
    OTHER_TASKS,
    OURS,
    SEEDS,
    TASKS,
    Cell,
    dense,
    finalists,
    generalisation,
    grid,
    headline,
    kind_rows,
    kinds,
    of_kind,
    settings,
    slim,
)
from benchmarks.parts.quality.inputs import DEV_ROWS, SOURCES, divided
from benchmarks.parts.quality.measure import SHARED, Bench
from benchmarks.parts.quality.measurement import Measurement
from benchmarks.parts.quality.shared_pass import score_together
from benchmarks.parts.quality.store import Store, compressed
from benchmarks.parts.quality.summary import KINDS, figures, half_width, kept, lead, row
from service.contract.answers.result import Estimate
from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.rows.row import Row
from tests.support import checkpoints
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, WITH_TOKEN_HEAD, family_of_model
from worker.checkpoints.loading import load_model
from worker.data import batching
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.selection import select
from worker.slimming.units.locating import locate

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared"
MEASURED = ROOT / "benchmarks" / "results" / "quality.csv.gz"
BEST: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares"}


def measurement(accuracy: float) -> Measurement:
    estimate = Estimate(value=accuracy, low=accuracy - 0.05, high=accuracy + 0.05)
    return Measurement(judged=200, metric="accuracy", value=estimate, raw=estimate, majority=0.5, parameters=1)


def measurements(*parts: tuple[list[Cell], float]) -> dict[Cell, Measurement]:
    """The same accuracy for all cells of a part."""
    return {cell: measurement(value) for cells, value in parts for cell in cells}


DENSE = [dense("smollm2", task) for task in TASKS]


def test_grid_has_every_combination_once(tmp_path: Path) -> None:
    cells = Store(tmp_path / "quality.csv.gz").unmeasured(grid("smollm2", TASKS))
    wanted = {
        slim("smollm2", task, method, ratio, layout=layout, repair=repair)
        for task in TASKS
        for method in (OURS, "gisp", "second_moment", *BASELINES)
        for ratio in (0.3, 0.5, 0.7)
        for layout, repair in [*product(("uniform", "per_layer"), ("none", "least_squares")), ("per_layer", LAYERWISE)]
    }
    assert wanted <= set(cells)
    assert len(set(cells)) == len(cells)


def test_grid_starts_with_the_cells_of_the_summary_figures(tmp_path: Path) -> None:
    needed = {cell for ratio in (0.3, 0.5, 0.7) for method in (OURS, *BASELINES) for cell in row(method, ratio, **BEST)}
    cells = [
        cell for cell in Store(tmp_path / "quality.csv.gz").unmeasured(grid("smollm2", TASKS)) if cell.method != "dense"
    ]
    assert needed <= set(cells[: len(needed) + 3 * len(TASKS)])


def test_plans_evaluate_on_test_rows() -> None:
    for plan, model in product((grid, settings, finalists, headline, generalisation), ("smollm2", "t5")):
        assert {cell.split for cell in plan(model, MODEL_TASKS[model])} == {"test"}


def test_draws_of_few_rows_have_a_mean_and_a_range() -> None:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE, "examples": 16, "draw": "balanced"}
    draws = [(row(OURS, 0.5, seed=draw, **form), 0.8 - draw / 100) for draw in DRAWS]
    more = [(row(OURS, 0.5, seed=draw, **form | {"examples": 32}), 0.8) for draw in DRAWS]
    whole = (row(OURS, 0.5, layout="per_layer", repair=LAYERWISE), 0.8)
    printed = tables.document(measurements((DENSE, 0.8), whole, *draws, *more))
    assert "| sst2 | 97.5 (95.0 to 100.0) | 100.0 (100.0 to 100.0) | 100.0 ± " in printed
    assert "Few calibration rows" not in tables.document(measurements((DENSE, 0.8), whole, *draws[1:], *more))


def test_calibration_on_another_data_set_stands_beside_that_on_its_own() -> None:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    own = [slim("smollm2", task, OURS, 0.5, **form) for task in ("sst2", "imdb")]
    other = slim("smollm2", "sst2", OURS, 0.5, calibration="imdb", **form)
    printed = tables.document(measurements((DENSE, 0.8), (own, 0.8), ([other], 0.6)))
    assert "| sst2 | imdb | 100.0 ± 6.3 | 75.0 ± 6.3 |" in printed
    assert "| imdb | sst2 |" not in printed


def test_interrupted_run_continues_after_its_last_cell(tmp_path: Path) -> None:
    cells, path = list(grid("smollm2", TASKS)), tmp_path / "quality.csv.gz"
    Store(path).put(cells[0], measurement(0.9))
    again = Store(path)
    assert again.unmeasured(cells) == list(dict.fromkeys(cells))[1:]
    assert again.measurements == {cells[0]: measurement(0.9)}


def test_cell_without_label_offsets_is_measured_again_by_a_plan_that_needs_them(tmp_path: Path) -> None:
    path, [cell, *_] = tmp_path / "quality.csv.gz", DENSE
    Store(path).put(cell, replace(measurement(0.9), value=None))
    store = Store(path)
    assert store.has(cell)
    assert not store.has(cell, with_offsets=True)
    Store(path).put(cell, measurement(0.9))
    assert store.read_again().has(cell, with_offsets=True)


def test_runs_that_share_a_file_keep_the_rows_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "quality.csv.gz"
    first, second = Store(path), Store(path)
    first.put(DENSE[0], measurement(0.9))
    second.put(DENSE[1], measurement(0.8))
    assert Store(path).measurements == {DENSE[0]: measurement(0.9), DENSE[1]: measurement(0.8)}


def test_measurements_are_read_as_they_were_written(tmp_path: Path) -> None:
    cell = slim("smollm2", "sst2", OURS, 0.5, **BEST)
    timed = replace(cell, split="timed", ratio=0.0)
    slowly = Measurement(seconds=1.5)
    store = Store(tmp_path / "quality.csv.gz")
    store.put(cell, replace(measurement(0.9), removed=0.5, seconds_to_cut=2.0))
    store.put(timed, slowly)
    assert Store(store.path).measurements == store.measurements
    assert store.measurements[timed] == slowly
    assert store.measurements[cell].removed == 0.5


def test_equal_measurements_give_equal_files(tmp_path: Path) -> None:
    path = tmp_path / "quality.csv.gz"
    for cell in DENSE:
        Store(path).put(cell, measurement(0.9))
    assert path.read_bytes() == compressed(measurements((DENSE[::-1], 0.9)))


def test_results_page_has_only_figures_of_the_measurements() -> None:
    """Whoever edits a table of RESULTS.md by hand changes no figure of `quality.py --tables`."""
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    section = page[page.index("## Quality") :].partition("\n## ")[0]
    shown = set(re.findall(r"\d+\.\d ± \d+\.\d", section))
    assert shown
    assert shown <= set(re.findall(r"\d+\.\d ± \d+\.\d", tables.document(Store(MEASURED).measurements)))


def test_kept_is_the_mean_accuracy_divided_by_the_dense_one() -> None:
    cells = row(OURS, 0.5, **BEST)
    known = measurements((DENSE[:3], 0.8), (DENSE[3:], 0.6), (cells[:3], 0.7), (cells[3:], 0.56))
    assert kept(known, cells) == pytest.approx(0.63 / 0.7)
    # six estimates with half widths of 0.05: half the width of their mean = 0.05 / sqrt(6)
    assert half_width(known, cells) == pytest.approx(0.05 / 6**0.5 / 0.7)


def test_kept_with_label_offsets_is_none_where_a_cell_has_none() -> None:
    cells = row(OURS, 0.5, **BEST)
    known = measurements((DENSE, 0.8), (cells, 0.6))
    known[cells[0]] = replace(known[cells[0]], value=None)
    assert kept(known, cells, "value") is None
    assert kept(known, cells, "raw") == pytest.approx(0.75)


def test_kept_is_none_while_a_task_is_not_measured() -> None:
    cells = row(OURS, 0.5, **BEST)
    assert kept(measurements((DENSE, 0.8), (cells[1:], 0.7)), cells) is None


def test_lead_is_over_the_best_rival_and_needs_all_rivals() -> None:
    ours = row(OURS, 0.7, **BEST)
    rivals = [[replace(cell, method=name) for cell in ours] for name in BASELINES]
    values = [0.5, 0.7, 0.4, 0.6, 0.3]
    known = measurements((DENSE, 0.8), (ours, 0.6), *zip(rivals, values, strict=True))
    assert lead(known, ours, BASELINES) == pytest.approx((0.6 - 0.7) / 0.8 * 100)
    for cell in rivals[0]:
        del known[cell]
    assert lead(known, ours, BASELINES) is None


def test_summary_figures_are_those_of_the_defaults() -> None:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    known = measurements((DENSE, 0.8), (row(OURS, 0.7, **form), 0.6), (row("wanda", 0.7, **form), 0.5))
    assert figures(known)["kept_at_70"] == pytest.approx(0.75)
    assert figures(known)["lead_at_70"] is None
    assert figures(known)["kept_at_30"] is None
    known |= measurements((row("activation", 0.7, **form), 0.56), (row("random", 0.7, **form), 0.4))
    assert figures(known)["lead_at_70"] == pytest.approx(5)


def test_summary_has_the_least_that_another_task_keeps() -> None:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE, "rows": 0}
    whole, slims = [dense("smollm2", task, rows=0) for task in OTHER_TASKS], row(OURS, 0.5, OTHER_TASKS, **form)
    known = measurements((whole, 0.8), (slims[1:], 0.8))
    assert figures(known)["kept_at_50_other_tasks"] is None
    known |= measurements((slims[:1], 0.6))
    assert figures(known)["kept_at_50_other_tasks"] == pytest.approx(0.75)


def test_task_that_the_dense_model_cannot_do_does_not_count() -> None:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE, "rows": 0}
    whole, slims = [dense("smollm2", task, rows=0) for task in OTHER_TASKS], row(OURS, 0.5, OTHER_TASKS, **form)
    known = measurements((whole, 0.8), (slims, 0.6), (slims[:1], 0.2))
    for guess in (
        replace(measurement(0.52), majority=0.5),
        replace(measurement(0.04), metric="matthews", majority=0.7),
    ):
        assert figures(known | {whole[0]: guess})["kept_at_50_other_tasks"] == pytest.approx(0.75)
    skilled = replace(measurement(0.4), metric="matthews", majority=0.7)
    assert figures(known | {whole[0]: skilled})["kept_at_50_other_tasks"] == pytest.approx(0.5)


@pytest.mark.parametrize(("name", "ratio"), KINDS)
def test_summary_has_the_least_that_a_task_of_a_kind_keeps(name: str, ratio: float) -> None:
    pairs = KINDS[name, ratio]
    whole = [dense(model, task, rows=kind_rows(model)) for model, task in pairs]
    slims = [of_kind(model, task, OURS, ratio, "per_layer") for model, task in pairs]
    assert {*whole, *slims} <= {cell for model, _ in pairs for cell in kinds(model, MODEL_TASKS[model])}
    key = f"kept_at_{ratio * 100:.0f}_{name}"
    known = measurements((whole, 0.8), (slims[1:], 0.8))
    assert figures(known)[key] is None
    assert figures(known | measurements((slims[:1], 0.6)))[key] == pytest.approx(0.75)


LESSONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "tags": ("bert_tokens", {"kind": "token_classification"}, {"tokens": ["good", "film"], "tags": ["B-LOC", "O"]}),
    "label": ("llama", {"template": "{text}:", "labels": {"0": "good", "1": "bad"}}, {"text": "film", "label": "1"}),
    "text": ("llama", {"kind": "generation", "template": "{text}:"}, {"text": "film", "target": "good"}),
}


@pytest.mark.parametrize("case", LESSONS)
def test_training_lowers_the_loss_of_the_tokens_that_the_product_scores(case: str) -> None:
    name, fields, row = LESSONS[case]
    model = WITH_TOKEN_HEAD["bert"]() if name == "bert_tokens" else TINY[name]()
    kind = family_of_model(model).kind
    task = resolve(Task.model_validate(fields | {"calibration": {"uri": "file:///rows.jsonl"}}))
    taught = training.lesson("", task, [Row(row, 1)] * 4, model, checkpoints.tokenizer(kind), kind)
    [batch] = batching.batches(taught.examples, taught.padding, 10_000)
    before = training.loss(model, batch, taught.kind).item()
    training.fit(model, [taught], training.Recipe(rate=1e-2, epochs=4))
    assert training.loss(model, batch, taught.kind).item() < before / 2


def test_headline_has_the_cells_of_the_summary_figures() -> None:
    cells = set(headline("smollm2", TASKS))
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    for method, ratio in product((OURS, "random", *BEST_BASELINES), (0.3, 0.5, 0.7)):
        assert {*row(method, ratio, **form), *row(method, ratio, OTHER_TASKS, rows=0, **form)} <= cells


def test_dev_rows_are_never_used_for_calibration() -> None:
    train = [Row({"text": str(line), "label": "a"}, line) for line in range(1, 1001)]
    dev, rest = divided(train)
    assert len(dev) == DEV_ROWS
    assert sorted(row.line for row in dev + rest) == list(range(1, 1001))


def test_tables_show_the_measured_cells() -> None:
    known = measurements((DENSE, 0.8), (row(OURS, 0.5, **BEST), 0.6))
    known |= measurements(
        ([dense("smollm2", task, rows=0) for task in TASKS], 0.8), (row(OURS, 0.1, rows=0, **BEST), 0.76)
    )
    known |= measurements(*((row("random", 0.7, seed=seed, **BEST), 0.4 + 0.04 * seed) for seed in SEEDS))
    known |= measurements((row(OURS, 0.3, layout="per_layer", repair=LAYERWISE), 0.7))
    text = tables.document(known)
    assert "| per layer, FFN and heads | 30% | surgeon | 87.5 ±" in text  # the headline
    assert text.count("75.0 ±") == 1
    assert "| surgeon | least squares | 95.0 ±" in text  # the finalists
    assert "| random, mean of seeds 0 to 2 | · | 55.0 |" in text


def test_figure_of_equal_measurements_is_an_equal_file(tmp_path: Path) -> None:
    known = measurements((DENSE, 0.8), (row(OURS, 0.5, **BEST), 0.6))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        figure.draw(known, tmp_path / name / "quality.svg")
    drawn = (tmp_path / "first" / "quality.svg").read_text()
    assert OURS in drawn
    assert drawn == (tmp_path / "second" / "quality.svg").read_text()


@pytest.mark.parametrize("method", ["least_squares", "least_squares_layerwise"])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_shared_pass_gives_the_scores_and_repairs_of_separate_passes(family: str, method: str) -> None:
    architecture, units, rows = ARCHITECTURES[family], ["ffn", "heads"], batches(family, examples(12), 4)
    methods = {name: (name, Options()) for name in SHARED}
    model = TINY[family]()
    scores, moments = score_together(model, architecture, units, rows, methods)
    for name, (criterion, options) in methods.items():
        alone = score(model, architecture, units, rows, criterion, options).scores
        for site in alone:
            torch.testing.assert_close(scores[name][site], alone[site], rtol=1e-4, atol=1e-7)
    kept_units = select(scores["wanda"], locate(model, architecture, units), 0.5, 4)
    other = TINY[family]()
    repair(RepairInput(model, architecture, kept_units, CalibrationBatches(rows, "margin"), moments), method)
    repair(RepairInput(other, architecture, kept_units, CalibrationBatches(rows, "margin")), method)
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "models").exists(), reason="the trained T5 and its rows are not here")
def test_trained_t5_runs_in_the_quality_benchmark(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/train_t5.py", str(tmp_path / "t5-large"), "--quick", "--data", str(DATA)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    accuracies = json.loads(ran.stdout.splitlines()[-1])
    assert set(MODEL_TASKS["t5-large"]) <= set(accuracies)
    bench = Bench({"t5-large": SOURCES["t5-large"](DATA, tmp_path)}, DATA / "data", tmp_path / "scores")
    for task in MODEL_TASKS["t5-large"]:
        judged = bench.measure(dense("t5-large", task, rows=8))
        assert judged.judged == 8
        assert judged.parameters == bench.loaded("t5-large").model.num_parameters()


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "models").exists(), reason="the tokenizer and the rows are not here")
def test_a_mixture_of_experts_is_trained_and_can_be_slimmed(tmp_path: Path) -> None:
    directory = tmp_path / "moe"
    command = [sys.executable, "benchmarks/train_moe.py", str(directory), "--quick", "--data", str(DATA)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    assert json.loads(ran.stdout.splitlines()[-1]).keys() == {"sst2", "ag_news", "trec", "subj"}
    model = load_model(directory, device=torch.device("cpu")).model
    assert {group.count for group in locate(model, ARCHITECTURES["mixtral"], ["experts"])} == {16}


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "data" / "snips_slots").exists(), reason="the rows of other kinds of tasks are not here"
)
def test_trained_heads_run_in_the_quality_benchmark(tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    checkpoints.save(encoder, cast(PreTrainedModel, TINY["bert"]().base_model))
    command = [sys.executable, "benchmarks/train_heads.py", str(tmp_path / "heads"), "--encoder", str(encoder)]
    command += ["--quick", "--data", str(DATA)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    assert json.loads(ran.stdout.splitlines()[-1]).keys() == set(HEAD_TASKS)
    for task in HEAD_TASKS:
        bench = Bench({f"bert-{task}": SOURCES[f"bert-{task}"](DATA, tmp_path)}, DATA / "data", tmp_path / "scores")
        cut = bench.measure(replace(of_kind(f"bert-{task}", task, OURS, 0.5, "per_layer"), rows=8, examples=8))
        assert (cut.judged, cut.removed) == (8, 0.5)
