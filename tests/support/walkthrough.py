"""Runs docs/walkthrough.md as it is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

from service.contract.answers.job import Job, JobStatus
from tests.support.checkpoints import tokenizer
from tests.support.documents import ROOT, SCRIPT, blocks, read
from tests.support.tiny_models import causal

PAGE = "docs/walkthrough.md"


def walkthrough_script() -> str:
    """The commands of the page in order, its Python blocks included; at the end the directory and the job's URL on
    descriptor 3."""
    lines = ["set -euo pipefail"]
    for language, content in blocks(read(PAGE), SCRIPT, "python"):
        lines.append(content if language == SCRIPT else f"python3 - <<'PYTHON'\n{content}PYTHON")
    return "\n".join([*lines, "pwd >&3", 'echo "$JOB" >&3'])


def run_walkthrough(directory: Path, **variables: str) -> str:
    """Run the page against the server that `variables` name, and check the files that it leaves.

    Returns the URL of its first job, which the page has deleted at its end.
    """
    here, said = Path(sys.executable).parent, directory / "said"
    run = subprocess.run(
        ["bash", "-c", f"exec 3>{said}\n{walkthrough_script()}"],
        cwd=ROOT,
        env=os.environ
        | {"TMPDIR": str(directory), "OMP_NUM_THREADS": "1", "PATH": f"{here}:{os.environ['PATH']}"}
        | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    place, job = said.read_text().split()
    _check_files(Path(place), job)
    assert "\nTrue\n" in run.stdout, "the second job has not reused the scores"
    assert '"code": "invalid_request"' in run.stdout
    assert run.stdout.endswith("200\n204\n")
    return job


def _check_files(directory: Path, job: str) -> None:
    assert Job.model_validate_json((directory / "job.json").read_bytes()).status is JobStatus.queued
    report = json.loads((directory / "report.json").read_text())
    assert report["job_id"] == job.rpartition("/")[2]
    assert "<html" in (directory / "report.html").read_text()
    config = json.loads((directory / "config.json").read_text())
    assert config == json.loads((directory / "slim/model/config.json").read_text())
    assert config["intermediate_size"] == 128
    plan = json.loads((directory / "plan.json").read_text())
    assert plan["parameters"] == report["result"]["parameters"]
    assert (directory / "scores.safetensors").stat().st_size > 0
    assert report["result"]["scores"] in (directory / "scores.txt").read_text()
    assert json.loads((directory / "applied/config.json").read_text())["intermediate_size"] == 128
    assert 0 < json.loads((directory / "overlap.json").read_text())["jaccard"] <= 1


def tiny_llama(directory: Path) -> Path:
    """A Llama with random weights, wide enough for kept widths in multiples of 64."""
    causal("llama", intermediate_size=192, max_position_embeddings=512).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory
