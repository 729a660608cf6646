"""The names of a job's artifacts: of its files, and of the directories of its checkpoints."""

from service.contract.options import Format, Precision

MODEL = "model"  # directory of the job's own checkpoint
UNTRAINED = "model-untrained"  # directory of the slim model before its recovery
TASK_FILE = "task.json"  # in the directory of each checkpoint
REPORT = "report.json"
REPORT_PAGE = "report.html"
SYNTHESIS = "synthesis.jsonl"  # every row and rationale that a language model wrote


def export_name(format: Format) -> str:
    """The directory of the files of another format: `model-gguf`."""
    return f"{MODEL}-{format}"


def quantised_name(precision: Precision) -> str:
    """The directory of the model in another precision: `model-int8`."""
    return f"{MODEL}-{precision}"


def checkpoint_name(ratio: float) -> str:
    """The directory of another checkpoint of a sweep, by its requested ratio, such as `model-0.3`."""
    return f"{MODEL}-{ratio:g}"


def kept_name(checkpoint: str) -> str:
    """The file with the kept indices of a checkpoint: `kept.safetensors` for `model`."""
    return f"kept{checkpoint.removeprefix(MODEL)}.safetensors"
