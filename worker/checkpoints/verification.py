"""Verifies that a written checkpoint equals the model in memory.

`python -m worker.checkpoints.verification PARENT DIRECTORY PROBE`, a fresh process, loads the directory with the stock
Auto class of its family, or with the per-layer class where layers have different widths, and with no other code. It
prints one line of JSON: the class that loaded it, and the greatest difference between its logits and those of the
probe. The probe is a safetensors file with inputs and the logits of the model in memory.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.contract.errors import VerificationFailed
from service.contract.result import Verified
from service.families.table import FAMILIES
from service.infrastructure.child_process import die_with_parent
from service.sources.model_files import CONFIG
from worker.checkpoints.loading import AUTO_CLASSES, FROM_DISK_ALONE
from worker.checkpoints.per_layer import loader_class

# The greatest difference of a logit that counts as rounding, relative to the greatest logit. The same kernels run on
# the same weights, so that the difference is usually zero. Another process may choose another kernel: one unit in the
# last place allows for that.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
LOGITS = "logits"
POLL_SECONDS = 0.5


def write_probe(model: PreTrainedModel, inputs: dict[str, Tensor], path: Path) -> None:
    """Write `inputs` and the logits of the model in memory, with its device and dtype."""
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    with torch.inference_mode():
        logits = model(**inputs).logits
    tensors = {**inputs, LOGITS: logits}
    metadata = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, path, metadata)


def verify(directory: Path, probe: Path, *, while_waiting: Callable[[], None] = lambda: None) -> Verified:
    """Load the checkpoint in a fresh process and compare its logits. Raises VerificationFailed unless they match.

    `while_waiting` is called about twice a second, and may raise to end the process.
    """
    command = [sys.executable, "-m", "worker.checkpoints.verification", str(os.getpid()), str(directory), str(probe)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        output, errors = _wait(process, while_waiting)
    if process.returncode != 0:
        raise VerificationFailed(f"the checkpoint does not load in a fresh process: {_last_line(errors)}")
    verified = Verified.model_validate_json(_last_line(output))
    if not verified.max_abs_logit_difference <= verified.tolerance:
        raise VerificationFailed(
            f"the logits of the reloaded checkpoint differ by {verified.max_abs_logit_difference:.3g}, "
            f"more than the tolerance of {verified.tolerance:.3g}"
        )
    return verified


def compare(directory: Path, probe: Path) -> Verified:
    """Load the checkpoint in this process and compare its logits with those of the probe.

    Raises ValueError where weights are missing or unexpected, or the logits are not finite.
    """
    with safe_open(probe, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    model = _load(directory, getattr(torch, metadata["dtype"]), metadata["device"])
    expected = tensors.pop(LOGITS).float()
    with torch.inference_mode():
        logits = model(**{name: value.to(metadata["device"]) for name, value in tensors.items()}).logits
    difference = (logits.float().cpu() - expected).abs().max().item()
    if not math.isfinite(difference):
        raise ValueError("the logits of the reloaded checkpoint are not finite")
    return Verified(
        loader=type(model).__name__,
        max_abs_logit_difference=difference,
        tolerance=TOLERANCES[model.dtype] * expected.abs().max().item(),
        dtype=metadata["dtype"],
    )


def _load(directory: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Load the checkpoint. Raises ValueError where its weights are not exactly those that its class needs."""
    config = json.loads((directory / CONFIG).read_bytes())
    loader = loader_class(config, AUTO_CLASSES[FAMILIES[config["model_type"]].kind])
    model, info = loader.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, output_loading_info=True, **FROM_DISK_ALONE
    )
    wrong = {what: sorted(info[what]) for what in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[what]}
    if wrong:
        raise ValueError(f"the checkpoint does not hold exactly what its class needs: {wrong}")
    assert isinstance(model, PreTrainedModel)
    nn.Module.to(model, device)
    model.eval()
    return model


def _wait(process: "subprocess.Popen[str]", while_waiting: Callable[[], None]) -> tuple[str, str]:
    """The standard output and errors of the process; kills it where `while_waiting` raises."""
    try:
        while True:
            try:
                return process.communicate(timeout=POLL_SECONDS)
            except subprocess.TimeoutExpired:
                while_waiting()
    except BaseException:
        process.kill()
        raise


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1]


def main() -> None:
    """Compare the checkpoint and the probe that the command line names; print a `Verified` as JSON."""
    parent, directory, probe = sys.argv[1:]
    die_with_parent(int(parent))
    sys.stdout.write(compare(Path(directory), Path(probe)).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
