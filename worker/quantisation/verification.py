"""Verifies that a quantised checkpoint, loaded by its library, computes what was measured.

`python -m worker.quantisation.verification PARENT`, a fresh process, is given a directory and its probes. It loads the
directory with transformers and the library of its `quantization_config`, which decode the stored weights in their own
way, and compares the logits with those of the model whose weights were replaced by the numbers that the quantised ones
stand for.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.errors import ExportFailed, VerificationFailed
from service.infrastructure.child_process import die_with_parent
from service.sources.model_files import CONFIG
from worker.checkpoints.encoders import is_encoder, outputs_of, sentence_encoder_of
from worker.checkpoints.fresh_process import FreshProcess, read_arguments
from worker.checkpoints.verification import Probe, load_written

MODULE = "worker.quantisation.verification"
# The greatest differences of a logit, relative to the greatest logit. Where an activation lies between two numbers, the
# smallest difference decides to which it is rounded; each such difference is a step of an activation.
TOLERANCE, TOLERANCE_WITH_ACTIVATIONS = 1e-4, 0.05


class Compared(BaseModel):
    """The differences of the logits that a fresh process has found."""

    loader: str
    weights: float
    activations: float | None = None


def verify(
    directory: Path, probes: Sequence[Path], greatest: float, while_waiting: Callable[[], None]
) -> tuple[Compared, float]:
    """(what the comparison has found, the tolerance of weights).

    The first probe has the logits with weights alone rounded, the second, where the precision does that, those with
    activations rounded as well; `greatest` is the greatest absolute logit. Raises ExportFailed where the logits differ
    by more, or the checkpoint does not load.
    """
    compared = compare_in_fresh_process(directory, probes, while_waiting)
    bounds = ((compared.weights, TOLERANCE), (compared.activations or 0.0, TOLERANCE_WITH_ACTIVATIONS))
    for difference, tolerance in bounds:
        if not difference <= tolerance * greatest:
            raise ExportFailed(
                f"the logits of {directory.name} differ by {difference:.3g} from those of the model that was measured, "
                f"more than the tolerance of {tolerance * greatest:.3g}"
            )
    return compared, TOLERANCE * greatest


def compare_in_fresh_process(directory: Path, probes: Sequence[Path], while_waiting: Callable[[], None]) -> Compared:
    """What `compare` returns in a process of its own. Raises ExportFailed where it raises."""
    failure = f"{directory.name} does not load in a fresh process"
    try:
        with FreshProcess(MODULE) as process:
            line = process.last_line([str(each) for each in (directory, *probes)], while_waiting, failure)
    except VerificationFailed as error:
        raise ExportFailed(error.message) from error
    return Compared.model_validate_json(line)


def compare(directory: Path, probe: Probe, rounding: Probe | None = None) -> Compared:
    """Load the checkpoint in this process and compare its logits. Raises ValueError where they are not finite."""
    model = load_written(directory, torch.float32, "cpu")
    config = json.loads((directory / CONFIG).read_bytes())["quantization_config"]
    # The first pass unpacks the weights, and rounds activations where the config says so.
    logits = _logits(model, probe, directory)
    activations = None if rounding is None else _difference(logits, rounding)
    if rounding is not None:
        for module in model.modules():
            _stop_rounding(module)
        logits = _logits(model, probe, directory)
    return Compared(
        loader=f"{type(model).__name__}, {config['quant_method']}",
        weights=_difference(logits, probe),
        activations=activations,
    )


def _stop_rounding(module: Any) -> None:
    """Let a module of compressed-tensors compute with its unpacked weights and inputs that are not rounded."""
    if hasattr(module, "quantization_scheme"):
        module.quantization_enabled = False


def _logits(model: PreTrainedModel, probe: Probe, directory: Path) -> Tensor:
    with torch.no_grad():
        encoder = sentence_encoder_of(directory) if is_encoder(model) else None
        return outputs_of(model, probe.inputs, encoder).float()


def _difference(logits: Tensor, probe: Probe) -> float:
    difference = (logits - probe.logits).abs().max().item()
    if not math.isfinite(difference):
        raise ValueError("the logits of the reloaded checkpoint are not finite")
    return float(difference)


def main() -> None:
    """Compare the checkpoint and the probes that the process is given; print a `Compared` as JSON."""
    [parent] = sys.argv[1:]
    die_with_parent(int(parent))
    directory, *probes = read_arguments()
    compared = compare(Path(directory), *(Probe.read(Path(each)) for each in probes))
    sys.stdout.write(compared.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
