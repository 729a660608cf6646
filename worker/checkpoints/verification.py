"""Proves that a written checkpoint is the model in memory: `python -m worker.checkpoints.verification PARENT DIRECTORY
PROBE`.

A fresh process loads the directory by the stock Auto class of its family, or by our own class where layers have widths
of their own, with no code from anywhere else. It prints one JSON line: the class that loaded it, and how far its logits
on the probe's inputs are from those of the probe.
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
from service.contract.families import FAMILIES
from service.contract.result import Verified
from service.infrastructure.child_process import die_with_parent
from worker.checkpoints.loading import AUTO_CLASSES
from worker.checkpoints.per_layer import class_of

# The largest difference of a logit that is still rounding, as a share of the largest logit. The same kernels run on
# the same weights, so that it is zero as a rule; one unit in the last place is left for kernels that are chosen anew.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
LOGITS = "logits"
POLL_SECONDS = 0.5


def write_probe(model: PreTrainedModel, inputs: dict[str, Tensor], path: Path) -> None:
    """What the model in memory answers to `inputs`, with the device and dtype that it computes in."""
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    with torch.inference_mode():
        logits = model(**inputs).logits
    tensors = {**inputs, LOGITS: logits}
    metadata = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, path, metadata)


def verify(directory: Path, probe: Path, *, while_waiting: Callable[[], None] = lambda: None) -> Verified:
    """Reload the checkpoint in a fresh process and compare. Raises VerificationFailed for anything but a match.

    `while_waiting` is called about twice a second, and ends the process by raising.
    """
    command = [sys.executable, "-m", "worker.checkpoints.verification", str(os.getpid()), str(directory), str(probe)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        output, errors = _wait(process, while_waiting)
    if process.returncode != 0:
        raise VerificationFailed(f"the checkpoint does not load in a fresh process: {_last_line(errors)}")
    verified = Verified.model_validate_json(_last_line(output))
    if not verified.max_abs_logit_difference <= verified.tolerance:
        raise VerificationFailed(
            f"the reloaded checkpoint's logits are off by {verified.max_abs_logit_difference:.3g}, "
            f"more than {verified.tolerance:.3g}"
        )
    return verified


def compare(directory: Path, probe: Path) -> Verified:
    """Load the checkpoint here and compare.

    Raises ValueError where it lacks a weight, holds one too many, or answers with something that is not a number.
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
        raise ValueError("the reloaded checkpoint's logits are not finite")
    return Verified(
        loader=type(model).__name__,
        max_abs_logit_difference=difference,
        tolerance=TOLERANCES[model.dtype] * expected.abs().max().item(),
        dtype=metadata["dtype"],
    )


def _load(directory: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    config = json.loads((directory / "config.json").read_bytes())
    model, info = class_of(config, AUTO_CLASSES[FAMILIES[config["model_type"]].kind]).from_pretrained(
        directory,
        dtype=dtype,
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    wrong = {what: sorted(info[what]) for what in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[what]}
    if wrong:
        raise ValueError(f"the checkpoint does not hold exactly what its class needs: {wrong}")
    assert isinstance(model, PreTrainedModel)
    nn.Module.to(model, device)
    model.eval()
    return model


def _wait(process: "subprocess.Popen[str]", while_waiting: Callable[[], None]) -> tuple[str, str]:
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
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def main() -> None:
    parent, directory, probe = sys.argv[1:]
    die_with_parent(int(parent))
    sys.stdout.write(compare(Path(directory), Path(probe)).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
