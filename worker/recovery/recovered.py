"""Recovers a slim model: trains LoRA weights, merges them, and makes the probe that its checkpoint is verified by.

The probe has the logits of the merged and rounded model. Whether the merge itself is right is seen from the model with
the LoRA weights beside its own: both are computed in float32, before anything is rounded.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.contract.errors import VerificationFailed
from worker.checkpoints.dtypes import cast_weights, round_weights, weight_dtypes
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.verification import Probe, probe_of
from worker.recovery.lora import Lora, attached
from worker.recovery.rows import SplitRows, TrainingTask
from worker.recovery.training import Before, OnStep, Settings, Training, train
from worker.slimming.surgery.slicing import copy_with_tensors

TOLERANCE = 1e-3  # difference of a logit that counts as rounding in float32, relative to the greatest logit


@dataclass(frozen=True)
class Recovered:
    """A recovered model, which shares no weights with the slim one, and how it was trained."""

    loaded: LoadedModel
    probe: Probe
    training: Training  # on answers
    rationales: Training | None  # the one before on rationales
    lora_parameters: int
    merge_difference: float  # the largest of a logit, by the merge


@dataclass(frozen=True)
class TrainingRows:
    """What a stage is trained on: the rows of each task, and which of them are held out."""

    tasks: Sequence[TrainingTask]
    splits: Sequence[SplitRows]

    @property
    def suffice(self) -> bool:
        """Whether there are rows to train on, and others to see whether that helps."""
        return any(rows.train for rows in self.splits) and any(rows.held_out for rows in self.splits)


def recover(
    slim: LoadedModel,
    answers: TrainingRows,
    inputs: Mapping[str, Tensor],
    rank: int,
    settings: Settings,
    on_step: OnStep,
    clock: Callable[[], float] = time.monotonic,
    rationales: TrainingRows | None = None,
) -> Recovered:
    """A trained copy of a slim model; `inputs` are those of its probe.

    With enough `rationales` it is trained on these first, for at most half of the time.

    Raises VerificationFailed where the merged model differs from the model with the LoRA weights beside it, and what
    `train` raises.
    """
    loaded = replace(slim, model=copy_with_tensors(slim.model))
    with attached(loaded.model, rank, settings.seed) as lora:
        lora_parameters = lora.parameters
        untrained, first = lora.state(), None
        if rationales is not None and rationales.suffice:
            half = replace(settings, seconds=settings.seconds / 2)
            first = train(loaded.model, lora, rationales.tasks, rationales.splits, half, on_step, clock)
        remaining = replace(settings, seconds=settings.seconds - (first.seconds if first else 0.0))
        before = Before(first.steps, untrained) if first else None
        training = train(loaded.model, lora, answers.tasks, answers.splits, remaining, on_step, clock, before)
        difference = _merge(loaded, lora, inputs, weight_dtypes(slim.model))
    round_weights(loaded.model, loaded.dtype)
    return Recovered(loaded, probe_of(loaded, inputs), training, first, lora_parameters, difference)


def _merge(loaded: LoadedModel, lora: Lora, inputs: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> float:
    """Merge the LoRA weights in float32, and give the weights their `dtypes` again; the largest difference that the
    merge makes to a logit. Raises VerificationFailed."""
    expected = probe_of(loaded, inputs).logits
    cast_weights(loaded.model, torch.float32)
    lora.merge()
    difference = (probe_of(loaded, inputs).logits - expected).abs().max().item()
    greatest = expected.abs().max().item()
    if not difference <= TOLERANCE * greatest:
        raise VerificationFailed(
            f"the logits of the model with merged LoRA weights differ by {difference:.3g} of {greatest:.3g} from those "
            "of the model with the weights beside it"
        )
    cast_weights(loaded.model, dtypes)
    return difference
