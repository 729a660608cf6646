"""The speed of the dense and the slim model: time and memory of a forward pass, and the time to read and write a text.

The dense model is timed where it is loaded for its evaluation, and the slim one when it is cut, so that there is one
model in memory. A fixed computation, timed beside each of them, shows whether the machine was equally fast.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import torch

from service.contract.answers.result import GenerationSpeed, Latency
from service.contract.options import TaskKind
from worker.data.wordings import Tokens
from worker.evaluation import generation_speed
from worker.evaluation.generation_speed import GenerationRuns, median_prompt, num_new_tokens
from worker.evaluation.latency import RUNS, SIZES, TOKENS, PassProfile, profile
from worker.stages.context import JobContext
from worker.stages.memory.exhaustion import is_exhaustion
from worker.stages.task_model import TaskModel

WRITING = ("causal", "encoder_decoder")  # kinds of models that write texts
REFERENCE_SIZE, REFERENCE_RUNS = 512, 9
log = structlog.get_logger()


@dataclass(frozen=True)
class ModelSpeed:
    """What was timed of one model."""

    passes: list[PassProfile]  # of each batch size; the first is that of the result
    generation: GenerationRuns | None  # of a model that writes texts
    reference_seconds: float  # of the fixed computation


@dataclass(frozen=True)
class Speed:
    """What was timed of both models."""

    dense: ModelSpeed
    slim: ModelSpeed
    device: str

    @property
    def passes(self) -> list[tuple[PassProfile, PassProfile]]:
        """(dense, slim) of each batch size."""
        return list(zip(self.dense.passes, self.slim.passes, strict=True))

    @property
    def generation(self) -> GenerationSpeed | None:
        """How fast both models read and write."""
        dense, slim = self.dense.generation, self.slim.generation
        return generation_speed.compared(dense, slim) if dense and slim else None

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
            drift=self.slim.reference_seconds / self.dense.reference_seconds,
        )


def measure_dense(context: JobContext, task_model: TaskModel) -> ModelSpeed:
    """The speed of the dense model. Batch sizes that there is no memory for are left out, but for the first."""
    return _measure(context, task_model, None)


def measure_slim(context: JobContext, task_model: TaskModel, dense: ModelSpeed) -> Speed:
    """The speed of both models; the slim one reads as many tokens as the dense one, in the same batch sizes."""
    slim = _measure(context, task_model, dense)
    return Speed(dense, slim, str(task_model.loaded.model.device))


def _measure(context: JobContext, task_model: TaskModel, dense: ModelSpeed | None) -> ModelSpeed:
    """The first batch size is that of a target of latency, where there is one."""
    bound, most = context.job.request.target.latency_ms, task_model.wording.max_tokens
    tokens = bound.tokens if bound else min(TOKENS, most or TOKENS, context.settings.tokens_per_batch)
    sizes = list(dict.fromkeys([bound.batch, *SIZES] if bound else SIZES))
    if dense is not None:
        tokens, sizes = dense.passes[0].tokens, [each.batch for each in dense.passes]
    prompt_tokens = dense.generation.prompt_tokens if dense and dense.generation else None
    return ModelSpeed(
        passes=_passes(context, task_model, tokens, sizes),
        generation=_generation(task_model, prompt_tokens),
        reference_seconds=_reference_seconds(task_model.loaded.model.device),
    )


def _passes(context: JobContext, task_model: TaskModel, tokens: int, sizes: Sequence[int]) -> list[PassProfile]:
    """The profile of a pass for each batch size, up to the first that there is no memory for."""
    found: list[PassProfile] = []
    for size in sizes:
        try:
            examples = task_model.evaluation.examples
            found += profile(task_model.loaded.model, examples, task_model.padding, tokens, [size])
        except (MemoryError, OSError, RuntimeError) as error:
            if not found or not is_exhaustion(error):
                raise
            log.warning("out of memory: this batch size is not timed", job_id=context.job.id, batch=size)
            break
    return found


def _generation(task_model: TaskModel, prompt_tokens: int | None) -> GenerationRuns | None:
    """Runs with the prompt of median length, or with one of `prompt_tokens` that repeats its tokens."""
    if task_model.padding.kind not in WRITING:
        return None
    most = task_model.wording.max_tokens
    prompt = median_prompt(_prompts(task_model), most)
    if prompt_tokens is not None:
        prompt = (prompt * -(-prompt_tokens // len(prompt)))[:prompt_tokens]
    return generation_speed.measure(task_model.loaded.model, prompt, task_model.padding, num_new_tokens(most))


def _prompts(task_model: TaskModel) -> list[Tokens]:
    """What the model reads of each row; of a plain text all of it."""
    examples = task_model.evaluation.examples
    if task_model.kind is TaskKind.language_modelling:
        return [example.prompt + example.candidates[0] for example in examples]
    return [example.prompt for example in examples]


def _reference_seconds(device: torch.device) -> float:
    """The median seconds of a product of two matrices."""
    factor = torch.ones(REFERENCE_SIZE, REFERENCE_SIZE, device=device)
    seconds = []
    for _ in range(REFERENCE_RUNS + 1):
        start = time.perf_counter()
        (factor @ factor)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])  # the first one warms up
