"""The servers of other runtimes: whether they serve the model of a job, and the command that starts them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from service.contract.answers.report import Report
from service.contract.errors import InvalidRequest
from service.contract.options import Format
from service.models.families.per_layer import has_own_widths
from service.storage.artifact_names import MODEL, export_name

GGUF, MLX = export_name(Format.gguf), export_name(Format.mlx)  # directories of the files of these formats
PREFERRED_GGUF = "q8_0"  # of several files


@dataclass(frozen=True)
class ServedModel:
    """The model of a job for one server: its path among the artifacts, and whether its layers have own widths."""

    path: str
    has_own_widths: bool


@dataclass(frozen=True)
class Server:
    """A server: its program, how it is installed, and how it is started."""

    program: str
    install: str
    model_of: Callable[[Sequence[str]], str | None]  # artifacts -> the directory or file that it loads
    arguments: Callable[[str, ServedModel], list[str]]  # path of the model on this machine -> arguments
    model_name: str  # what a request calls the model


def _checkpoint(files: Sequence[str]) -> str | None:
    return MODEL if f"{MODEL}/config.json" in files else None


def _gguf_file(files: Sequence[str]) -> str | None:
    found = [name for name in files if name.startswith(f"{GGUF}/") and name.endswith(".gguf")]
    return min(found, key=lambda name: (PREFERRED_GGUF not in name.lower(), name), default=None)


def _mlx_directory(files: Sequence[str]) -> str | None:
    return MLX if any(name.startswith(f"{MLX}/") for name in files) else _checkpoint(files)


def _vllm(path: str, model: ServedModel) -> list[str]:
    # the sampling defaults of generation_config.json are not those that the model was judged with
    arguments = ["serve", path, "--served-model-name", "slim", "--generation-config", "vllm"]
    return [*arguments, *(["--trust-remote-code"] if model.has_own_widths else [])]


SERVERS: Mapping[str, Server] = {
    "vllm": Server("vllm", "pip install vllm", _checkpoint, _vllm, "slim"),
    "llama.cpp": Server(
        "llama-server",
        "install llama.cpp",
        _gguf_file,
        lambda path, model: ["--model", path, "--alias", "slim"],
        "slim",
    ),
    "mlx-lm": Server(
        "mlx_lm.server", "pip install mlx-lm", _mlx_directory, lambda path, model: ["--model", path], "default_model"
    ),
}


def served_model(runtime: str, report: Report, files: Sequence[str]) -> ServedModel:
    """The model of a job as the server of a runtime loads it. Raises InvalidRequest where it does not."""
    own = has_own_widths(report.result)
    path = SERVERS[runtime].model_of(files)
    if path is None:
        wanted = "gguf" if runtime == "llama.cpp" else "safetensors"
        raise InvalidRequest(
            f"{runtime} needs the model in the format {wanted}, which the job has not stored: submit it again with "
            f"`output.formats: [{wanted}]`"
        )
    entry = next((each for each in report.runtimes if each.name == runtime), None)
    if path == MODEL and (entry is None or not entry.loads):
        reason = (entry and entry.reason) or "the report does not name it"
        raise InvalidRequest(f"{runtime} does not load the model ({reason}): {_others(runtime, report, files)}")
    return ServedModel(path, own and path == MODEL)


def serving_runtimes(report: Report, files: Sequence[str]) -> list[str]:
    """The runtimes whose servers load the model of the job."""
    return [runtime for runtime in SERVERS if _is_served(runtime, report, files)]


def _is_served(runtime: str, report: Report, files: Sequence[str]) -> bool:
    try:
        served_model(runtime, report, files)
    except InvalidRequest:
        return False
    return True


def _others(runtime: str, report: Report, files: Sequence[str]) -> str:
    others = [each for each in SERVERS if each != runtime and _is_served(each, report, files)]
    return f"give --runtime {others[0]}" if others else "the report's snippet runs it with transformers"


def command(runtime: str, model: ServedModel, directory: Path, port: int) -> list[str]:
    """The command that serves the downloaded model on this machine's loopback address."""
    server = SERVERS[runtime]
    path = str(directory / PurePosixPath(model.path))
    return [server.program, *server.arguments(path, model), "--host", "127.0.0.1", "--port", str(port)]
