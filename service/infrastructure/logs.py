"""Logs: one JSON object per line, with secrets replaced. Each process calls `configure` once."""

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any

import structlog

REDACTED = "***"
# Names of secret values, at any depth of a log line.
SECRET_NAMES = re.compile(r"(?i)authorization|password|passwd|secret|api_?key|access_key|credential|cookie")
# Patterns of secret values in texts; the first group of each is kept.
SECRET_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?i:(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,})",
        r"(\bhf_)[A-Za-z0-9]{8,}",
        r"(\bwhsec_)[A-Za-z0-9+/=]{8,}",
        r"(\bslim_[A-Za-z0-9]+_[A-Za-z0-9]+_)[A-Za-z0-9_-]{8,}",
        r"(?i:([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|sig|signature|token)=)[^&\s\"']+)",
        r"([a-z][a-z0-9+.-]*://)[^/\s@\"']+(?=@)",
    )
)
# Every text that a pattern matches has one of these, few others do, and they are found faster than a pattern.
MARKERS = ("bearer", "basic", "hf_", "whsec_", "slim_", "?", "&", "@")
PLAIN = (str, int, float, type(None))
NOISY = ("httpx", "httpcore", "urllib3", "filelock", "fsspec", "datasets")


def configure(process: str) -> None:
    """Write the log lines of structlog and the standard library to standard output, each with the name `process`."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _add_process(process),
    ]
    final: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        redact,
        structlog.processors.JSONRenderer(_as_json),
    ]
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=("job_id",))],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def take_over_loggers() -> None:
    """Let the loggers of libraries write through the handler of `configure` alone.

    torch and transformers give theirs handlers that write lines of text, when they are imported; call it after that.
    """
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and any(type(each) is logging.StreamHandler for each in logger.handlers):
            logger.handlers = []
            logger.propagate = True


def redact(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the secrets of a log line; a structlog processor."""
    if not any(map(_is_secret, line)) and all(isinstance(value, PLAIN) for value in line.values()):
        texts = "\n".join([value for value in line.values() if isinstance(value, str)]).lower()
        if not any(mark in texts for mark in MARKERS):
            return line
    return {name: _redacted(name, value) for name, value in line.items()}


@lru_cache(maxsize=1000)
def _is_secret(name: str) -> bool:
    return SECRET_NAMES.search(name) is not None


def _redacted(name: str, value: Any) -> Any:
    if _is_secret(name):
        return REDACTED
    if isinstance(value, dict):
        return {str(key): _redacted(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted("", item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    for pattern in SECRET_PATTERNS:
        text = pattern.sub(rf"\1{REDACTED}", text)
    return text


def _add_process(process: str) -> structlog.typing.Processor:
    def mark(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["process"] = process
        return line

    return mark


_encoder = json.JSONEncoder(sort_keys=True, default=str)


def _as_json(line: MutableMapping[str, Any], **_: Any) -> str:
    return _encoder.encode(line)
