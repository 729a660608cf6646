"""The README's walk with curl, carried out as it is written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from service.contract.job import Job, JobStatus
from tests.support.checkpoints import tokenizer
from tests.support.tiny_models import causal

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """The text under a heading."""
    return re.split(r"^## ", README.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def walk_script() -> str:
    """The commands of the walk in their order; Python goes to the interpreter that the commands use."""
    lines = ["set -euo pipefail"]
    for language, content in blocks(section("A walk with curl")):
        if language == "sh":
            lines.append(content)
        elif language == "python":
            lines.append(f"python3 - <<'PYTHON'\n{content}PYTHON")
    return "\n".join([*lines, "pwd >&3", 'echo "$JOB" >&3'])


def walk(directory: Path, **variables: str) -> str:
    """Carry the walk out against the server of `variables`, hold what it leaves to what the README says; the job's URL,
    which the walk has deleted at its end."""
    here, said = Path(sys.executable).parent, directory / "said"
    run = subprocess.run(
        ["bash", "-c", f"exec 3>{said}\n{walk_script()}"],
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
    left = Path(place)
    assert Job.model_validate_json((left / "job.json").read_bytes()).status is JobStatus.queued
    assert json.loads((left / "report.json").read_text())["job_id"] == job.rpartition("/")[2]
    assert "<html" in (left / "report.html").read_text()
    config = json.loads((left / "config.json").read_text())
    assert config == json.loads((left / "slim/model/config.json").read_text())
    assert config["intermediate_size"] == 128
    assert '"code": "invalid_request"' in run.stdout
    assert run.stdout.endswith("200\n204\n")
    return job


def walkable_model(directory: Path) -> Path:
    """A tiny Llama, wide enough for kept widths in multiples of 64."""
    causal("llama", intermediate_size=192, max_position_embeddings=512).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory
