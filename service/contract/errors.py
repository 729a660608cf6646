"""The errors that users see, in one tree.

TaskslimError                     status  code
├── InvalidRequest                422     invalid_request          the request is not valid
│   ├── UnknownPreset             422     unknown_preset
│   ├── InvalidTemplate           422     invalid_template         no template, or a field that it needs is missing
│   ├── InvalidLabels             422     invalid_labels           no labels, or labels with the same word
│   ├── NotComparable             422     not_comparable           scores or jobs of different models, units or tasks
│   ├── UnusableAnswers           422     unusable_answers         the model's own answers cannot stand for labels
│   ├── UnsupportedUnit           422     unsupported_unit         the family or criterion has no such unit
│   ├── UnsupportedFormat         422     unsupported_format       the format or precision cannot hold the model
│   ├── IdempotencyKeyReused      422     idempotency_key_reused   the key was sent before with another request
│   └── UnsafeUrl                 422     unsafe_url               a webhook URL that the service must not call
├── InvalidData                   422     invalid_data             rows that cannot be read or used, with the line
│   └── UnknownLabel              422     unknown_label            a row has a label that the task does not have
├── InvalidModel                  422     invalid_model            missing, pickle-only, `auto_map`, damaged
│   ├── UnsupportedFamily         422     unsupported_family       `model_type` is not in the table
│   └── NotPlannable              422     not_plannable            a job may take the model; a plan cannot read it
├── TargetUnreachable             422     target_unreachable       no model meets the target, or a width would be zero
├── Unauthorized                  401     unauthorized             no API key, or an invalid, revoked or expired one
├── Forbidden                     403     forbidden                the key lacks the scope; the link is bad or expired
│   └── ForbiddenPath             403     forbidden_path           outside the roots that the deployment allows
├── NotFound                      404     not_found
├── Conflict                      409     conflict                 the job's status does not allow it
│   ├── IdempotencyKeyInUse       409     idempotency_key_in_use   the first request with the key has not ended
│   └── UnreadableRecord          409     unreadable_record        the stored job is damaged or of another version
├── BodyTooLarge                  413     body_too_large
├── RangeNotSatisfiable           416     range_not_satisfiable    the range begins after the end of the file
├── LimitExceeded                 429     limit_exceeded           the tenant's jobs or bytes
│   └── TooManyRequests           429     too_many_requests        the tenant's requests in the current window
├── VerificationFailed            500     verification_failed      the checkpoint differs from the masked dense model
│   └── ExportFailed              500     export_failed            files of another format or precision differ
├── PushFailed                    502     push_failed              the model cannot be pushed to `output.uri`
├── StorageUnavailable            503     storage_unavailable
├── QueueUnavailable              503     queue_unavailable
├── DeadlineExceeded              504     deadline_exceeded
├── ScratchFull                   507     scratch_full             the worker's disk has no room for the job
├── OutOfMemory                   507     out_of_memory            the worker's memory has no room for the job
└── WorkerLost                    500     worker_lost              the worker died on every attempt

The API answers with the error as a problem document (RFC 9457). The worker stores its `code`, `message` and `param` in
the record of the job. Any other exception is a bug: users see `internal_error`, and the log has the traceback.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from service.contract.fields import GENERAL_PLACE

if TYPE_CHECKING:
    from service.contract.answers.result import CurvePoint


class TaskslimError(Exception):
    """The root of all errors.

    `param` is the field of the request to change, as a dotted path; `retry_after_seconds` becomes the Retry-After
    header.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds


@contextmanager
def blaming_task(place: str) -> Iterator[None]:
    """Replace `task` by `place`, such as `observe.1`, in the `param` of errors raised within the context.

    General rows have no field `calibration`: their calibration rows are named at their place itself.
    """
    try:
        yield
    except TaskslimError as error:
        if error.param is not None and error.param.partition(".")[0] == "task":
            field = error.param.removeprefix("task")
            error.param = place + (field.removeprefix(".calibration") if place == GENERAL_PLACE else field)
        raise


@contextmanager
def blaming_rows(param: str) -> Iterator[None]:
    """Name the rows at `param`, such as `task.evaluation`, in InvalidData that names no field."""
    try:
        yield
    except InvalidData as error:
        error.param = error.param or param
        raise


class InvalidRequest(TaskslimError):
    status, code, title = 422, "invalid_request", "Invalid request"


class UnknownPreset(InvalidRequest):
    code, title = "unknown_preset", "Unknown preset"


class InvalidTemplate(InvalidRequest):
    code, title = "invalid_template", "Invalid template"


class InvalidLabels(InvalidRequest):
    code, title = "invalid_labels", "Invalid labels"


class NotComparable(InvalidRequest):
    code, title = "not_comparable", "Not comparable"


class UnusableAnswers(InvalidRequest):
    code, title = "unusable_answers", "Unusable answers"


class UnsupportedUnit(InvalidRequest):
    code, title = "unsupported_unit", "Unsupported unit"


class UnsupportedFormat(InvalidRequest):
    code, title = "unsupported_format", "Unsupported format"


class IdempotencyKeyReused(InvalidRequest):
    code, title = "idempotency_key_reused", "Idempotency key reused"


class UnsafeUrl(InvalidRequest):
    code, title = "unsafe_url", "Unsafe URL"


class InvalidData(TaskslimError):
    status, code, title = 422, "invalid_data", "Invalid data"


class UnknownLabel(InvalidData):
    code, title = "unknown_label", "Unknown label"


class InvalidModel(TaskslimError):
    status, code, title = 422, "invalid_model", "Invalid model"


class UnsupportedFamily(InvalidModel):
    code, title = "unsupported_family", "Unsupported family"


class NotPlannable(InvalidModel):
    code, title = "not_plannable", "Not plannable"


class TargetUnreachable(TaskslimError):
    """`curve` has the models that were measured before the error."""

    status, code, title = 422, "target_unreachable", "Target unreachable"

    def __init__(self, message: str, *, param: str | None = None, curve: Sequence["CurvePoint"] = ()) -> None:
        super().__init__(message, param=param)
        self.curve = list(curve)


class Unauthorized(TaskslimError):
    status, code, title = 401, "unauthorized", "Unauthorized"


class Forbidden(TaskslimError):
    status, code, title = 403, "forbidden", "Forbidden"


class ForbiddenPath(Forbidden):
    code, title = "forbidden_path", "Forbidden path"


class NotFound(TaskslimError):
    status, code, title = 404, "not_found", "Not found"


class Conflict(TaskslimError):
    status, code, title = 409, "conflict", "Conflict"


class IdempotencyKeyInUse(Conflict):
    code, title = "idempotency_key_in_use", "Idempotency key in use"


class UnreadableRecord(Conflict):
    """The stored job is damaged or was written by another version."""

    code, title = "unreadable_record", "Unreadable record"


class BodyTooLarge(TaskslimError):
    status, code, title = 413, "body_too_large", "Body too large"


class RangeNotSatisfiable(TaskslimError):
    status, code, title = 416, "range_not_satisfiable", "Range not satisfiable"


class LimitExceeded(TaskslimError):
    status, code, title = 429, "limit_exceeded", "Limit exceeded"


class TooManyRequests(LimitExceeded):
    code, title = "too_many_requests", "Too many requests"


class VerificationFailed(TaskslimError):
    status, code, title = 500, "verification_failed", "Verification failed"


class ExportFailed(VerificationFailed):
    code, title = "export_failed", "Export failed"


class PushFailed(TaskslimError):
    status, code, title = 502, "push_failed", "Push failed"


class StorageUnavailable(TaskslimError):
    status, code, title = 503, "storage_unavailable", "Storage unavailable"


class QueueUnavailable(TaskslimError):
    status, code, title = 503, "queue_unavailable", "Queue unavailable"


class DeadlineExceeded(TaskslimError):
    status, code, title = 504, "deadline_exceeded", "Deadline exceeded"


class ScratchFull(TaskslimError):
    status, code, title = 507, "scratch_full", "Scratch full"


class OutOfMemory(TaskslimError):
    status, code, title = 507, "out_of_memory", "Out of memory"


class WorkerLost(TaskslimError):
    status, code, title = 500, "worker_lost", "Worker lost"
