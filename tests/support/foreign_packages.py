"""Installs packages that must not be in the environment of the tests, and runs scripts that import them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

INSTALL_SECONDS = 300


def installed(*requirements: str) -> Path:
    """A directory with these packages and none of those that they depend on; it is kept for later runs.

    Skips the test where they cannot be installed.
    """
    name = "-".join(requirement.replace("==", "-") for requirement in requirements)
    directory = Path(tempfile.gettempdir()) / f"taskslim-test-packages-{os.getuid()}" / name
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=directory.parent))
        command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
        try:
            run = [*command, "--only-binary", ":all:", "--target", str(partial), *requirements]
            subprocess.run(run, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{' '.join(requirements)} cannot be installed here: {error.stderr!r}")
        partial.rename(directory)
    return directory


def environment_with(*requirements: str) -> Path:
    """The Python of an environment that has these packages and what they depend on; it is kept for later runs.

    Skips the test where they cannot be installed.
    """
    name = "environment-" + "-".join(requirement.replace("==", "-") for requirement in requirements)
    directory = Path(tempfile.gettempdir()) / f"taskslim-test-packages-{os.getuid()}" / name
    python, is_complete = directory / "bin/python", directory / "complete"
    if not is_complete.exists():
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *requirements]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True, capture_output=True)
            subprocess.run(pip, check=True, capture_output=True, text=True, timeout=2 * INSTALL_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{' '.join(requirements)} cannot be installed here: {error.stderr!r}")
        is_complete.touch()
    return python


def run_with(packages: Path, script: str, *lines: str) -> None:
    """Run a script with these packages before those of the tests, and the lines as its standard input."""
    environment = {"PYTHONPATH": str(packages), "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HOME": str(packages / "home")}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        input="\n".join(lines),
        text=True,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
