"""The speed of the dense and the slim model: time and memory of a forward pass, and of tasks with texts, of writing."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from service.contract.result import GenerationSpeed, Latency
from worker.checkpoints.dtypes import cast_weights
from worker.checkpoints.loading import load_model
from worker.evaluation import generation_speed
from worker.evaluation.latency import RUNS, SIZES, TOKENS, PassProfile, profile_in_turns
from worker.stages.context import JobContext
from worker.stages.inputs import Sources
from worker.stages.task_model import TaskModel


@dataclass(frozen=True)
class Speed:
    """What was timed of both models."""

    passes: list[tuple[PassProfile, PassProfile]]  # (dense, slim) of each batch size; the first is that of the result
    generation: GenerationSpeed | None  # of a task with texts
    device: str

    @property
    def latency(self) -> Latency:
        """The latency that the result has."""
        dense, slim = self.passes[0]
        return Latency(
            dense=dense.milliseconds,
            slim=slim.milliseconds,
            dense_quartiles=dense.quartiles,
            slim_quartiles=slim.quartiles,
            batch=dense.batch,
            tokens=dense.tokens,
            runs=RUNS,
            device=self.device,
        )


def measure(context: JobContext, sources: Sources, task_model: TaskModel) -> Speed:
    """The speed of the dense model and of the slim one, which `task_model` has.

    The first batch size is that of a target of latency, where there is one. The dense model has no adapter, which costs
    no time once it is merged.
    """
    slim = task_model.loaded.model
    dense = load_model(sources.model, device=torch.device("cpu"), scratch=context.scratch).model
    cast_weights(dense, slim.dtype)  # as on its device
    passes = _passes(context, dense, task_model)
    return Speed(passes, _generation(dense, task_model), str(slim.device))


def _passes(
    context: JobContext, dense: PreTrainedModel, task_model: TaskModel
) -> list[tuple[PassProfile, PassProfile]]:
    bound = context.job.request.target.latency_ms
    tokens = bound.tokens if bound else min(TOKENS, task_model.wording.max_tokens or TOKENS)
    rows = dict.fromkeys([bound.batch, *SIZES] if bound else SIZES)
    return profile_in_turns(
        dense, task_model.loaded.model, task_model.evaluation.examples, task_model.padding, tokens, list(rows)
    )


def _generation(dense: PreTrainedModel, task_model: TaskModel) -> GenerationSpeed | None:
    if not task_model.generates:
        return None
    return generation_speed.measure_in_turns(
        dense,
        task_model.loaded.model,
        task_model.evaluation.examples,
        task_model.padding,
        task_model.wording.max_tokens,
    )
