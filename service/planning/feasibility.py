"""Whether a model can be slimmed as a request asks, judged by its config and the shapes of its tensors."""

import json
import time
from concurrent.futures import Future
from dataclasses import replace
from threading import Thread
from typing import Any

import structlog

from service.contract.errors import InvalidModel, InvalidRequest, StorageUnavailable
from service.contract.options import Repair, Unit
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import LABELLED_BY_HEAD, resolve
from service.contract.request.recovery import check_rank
from service.exports.formats import check_formats
from service.exports.precisions import check_precisions
from service.models.families.source_config import TIED
from service.planning.model_checks import check_config
from service.planning.removal import count_chosen, has_bias
from service.planning.targets import check_target
from service.planning.tensor_checks import check_head_count, check_tensors
from service.planning.tokenizer_checks import check_tokenizer
from service.sources.checkpoint import Checkpoint, read_checkpoint
from service.sources.dimensions import head_counts, head_size, num_layers, row_lengths, vocabulary_rows
from service.sources.hub import NotShown
from service.sources.model_directory import ModelDirectory

KNOWN_SECONDS = 60.0
MAX_KNOWN = 1000
HUB_SECONDS = 5.0  # a client waits for the answer
HUB_PAUSE_SECONDS = 60.0  # after a hub did not answer, it is not asked again for this time

log = structlog.get_logger()


def check_feasible(request: JobRequest, checkpoint: Checkpoint) -> None:
    """Check everything that the config and the headers of the weights decide.

    Raises InvalidModel, what `check_config` raises, InvalidRequest for an option that the model has no place for,
    UnsupportedFormat for a format that cannot hold the slim model, and TargetUnreachable where a width would be zero or
    no model is as small.
    """
    check_options(request, checkpoint)
    check_target(request, checkpoint)


def read_checked(request: JobRequest, model: ModelDirectory) -> Checkpoint:
    """The checkpoint of a model with safetensors files, once its tokenizer and its sentence encoder are checked.

    Where tokens are removed, it has the rows that stay whatever the texts are, unless the tokenizer is large or on a
    hub. Raises as `check_tokenizer`, `check_sentence_encoder` and `read_checkpoint`.
    """
    tokenizer = check_tokenizer(request, model)
    model.check_sentence_encoder()
    checkpoint = read_checkpoint(model)
    if tokenizer is None or Unit.vocabulary not in request.method.units:
        return checkpoint
    rows = vocabulary_rows(checkpoint)
    return replace(checkpoint, least_rows=sum(number < rows for number in tokenizer.always()))


def check_options(request: JobRequest, checkpoint: Checkpoint) -> None:
    """As `check_feasible`, without the target."""
    check_config(request, checkpoint.family, checkpoint.config, checkpoint.adapter)
    _check_sizes(checkpoint)
    check_tensors(checkpoint)
    check_head_count(checkpoint)
    check_formats(request, checkpoint.family, with_tying(checkpoint))
    check_precisions(request, checkpoint.family, checkpoint.config, row_lengths(checkpoint))
    _check_repair(request, checkpoint)
    _check_rank(request, checkpoint)
    if count_chosen(request.method, checkpoint, [])[0] == 0:
        message = f"the weights hold none of the units {', '.join(request.method.units)}"
        raise InvalidModel(message, param="model.uri")


def with_tying(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config, where `tie_word_embeddings` says whether the weights are tied."""
    return {**checkpoint.config, TIED: checkpoint.names.head not in checkpoint.tensors}


def _check_sizes(checkpoint: Checkpoint) -> None:
    """Raise InvalidModel unless the model has the layers and the head counts that a plan states."""
    for stack in checkpoint.names.stacks:
        num_layers(checkpoint, stack)
        head_counts(checkpoint, stack)
        head_size(checkpoint, stack)


def _check_repair(request: JobRequest, checkpoint: Checkpoint) -> None:
    """Raise InvalidRequest for the repair `bias` where the slim model could not hold the biases."""
    if request.method.repair is not Repair.bias:
        return
    names = checkpoint.names
    new = [stack.bias for stack in names.stacks if stack.bias and not checkpoint.config.get(stack.bias)]
    if Unit.heads in request.method.units and set(new) & set(names.head_counts_divide):
        message = "a Llama with biases cannot be written with any number of heads: choose another repair"
        raise InvalidRequest(message, param="method.repair")
    if not any(has_bias(request, checkpoint, stack) for stack in checkpoint.names.stacks):
        message = "the stock config of this family gives these modules no bias: choose another repair"
        raise InvalidRequest(message, param="method.repair")


def _check_rank(request: JobRequest, checkpoint: Checkpoint) -> None:
    """Raise InvalidRequest for a recovery whose rank is too high for the model."""
    if request.recovery is not None:
        hidden_size = checkpoint.number(checkpoint.names.hidden_size, checkpoint.last_stack)
        check_rank(request.recovery, hidden_size)


class Feasibility:
    """Checks requests, and remembers for a minute which were feasible, so that many jobs on one model read it once.

    One object serves a process. A model that changes within the minute is refused by the worker, which checks again.
    """

    def __init__(self) -> None:
        self._known: dict[str, float] = {}  # the fields that decide -> the time when they were found feasible
        self._paused_until = 0.0

    def check(self, request: JobRequest, model: ModelDirectory) -> None:
        """Raise as `check_feasible` for a request that `check_request` has accepted.

        A model that only the worker can read is not checked: GGUF, or one on a hub that does not answer in time.
        """
        deciding = _deciding_fields(request)
        if time.monotonic() - self._known.get(deciding, -KNOWN_SECONDS) < KNOWN_SECONDS:
            return
        is_checked = self._check_on_hub(request, model) if model.is_on_hub else _check(request, model)
        if is_checked:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[deciding] = time.monotonic()

    def _check_on_hub(self, request: JobRequest, model: ModelDirectory) -> bool:
        """As `_check`; false too where the hub does not answer in time or does not show the model."""
        if time.monotonic() < self._paused_until:
            return False
        checked = Future[bool]()
        # A daemon thread, so that a hub that does not answer cannot keep the process from its end.
        Thread(target=_check_in_thread, args=(request, model, checked), daemon=True).start()
        try:
            return checked.result(HUB_SECONDS)
        except (StorageUnavailable, TimeoutError):
            self._paused_until = time.monotonic() + HUB_PAUSE_SECONDS
            log.info("the hub does not answer: the worker checks the model")
        except NotShown as error:
            log.info("the hub does not show the model: the worker checks it", reason=error.message)
        return False


def _deciding_fields(request: JobRequest) -> str:
    """The fields of a request that decide whether its model can be slimmed; of the tasks, what the head and the
    tokenizer must have, and rows whose labels the head must have."""
    parts = [request.model, request.method, request.target, request.output]
    parts += [request.recovery] if request.recovery else []
    parts += [task.synthesis for task in request.slimmed_for if task.synthesis]
    tasks = [resolve(task) for task in request.placed_wordings.values()]
    wordings = [(task.kind, task.labels, task.template, task.messages) for task in tasks]
    rows = [task.model_dump_json() for task in tasks if task.kind in LABELLED_BY_HEAD and task.labels is None]
    return "".join(part.model_dump_json() for part in parts) + json.dumps(wordings) + "".join(rows)


def _check(request: JobRequest, model: ModelDirectory) -> bool:
    """Raise as `check_feasible`; false for a model that only a worker can read."""
    if not model.can_be_planned:
        return False
    check_feasible(request, read_checked(request, model))
    return True


def _check_in_thread(request: JobRequest, model: ModelDirectory, checked: Future[bool]) -> None:
    try:
        checked.set_result(_check(request, model))
    except BaseException as error:
        checked.set_exception(error)
