"""What the command line shows of a job and its result."""

import re
from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from service.cli.terminal import describe, result_table
from service.contract.answers.job import Job, JobStatus, Links, Progress, Stage
from tests.support.contract_examples import REQUEST, result


def test_result_table_shows_both_models_and_the_change() -> None:
    output = StringIO()
    Console(width=100, file=output).print(result_table(result()))
    lines = output.getvalue().replace("\N{NO-BREAK SPACE}", " ").splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert ["parameters", "10", "7", "−30.0 %"] in rows
    assert ["bytes", "20 B", "14 B", "−30.0 %"] in rows
    assert ["raw accuracy", "50.0 %", "50.0 %", "0.0 points"] in rows
    assert ["95 % interval", "40.0 % to 60.0 %", "40.0 % to 60.0 %", ""] in rows
    assert ["latency", "2.0 ms", "1.0 ms", "−50.0 %"] in rows


def test_description_of_a_running_job_has_stage_count_and_time_left() -> None:
    progress = Progress(fraction=0.41, done=52, total=128, unit="examples", eta_seconds=75.2)
    job = Job(
        id="01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
        status=JobStatus.running,
        stage=Stage.attribute,
        progress=progress,
        attempt=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        request=REQUEST,
        tags={},
        links=Links(self="", events="", deliveries="", artifacts="", report="", cancel=""),
    )
    assert re.split(" {2,}", describe(job)) == ["attribute", "52/128 examples", "1 min 15 s left"]
