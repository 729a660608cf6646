"""Logs: JSON lines without secrets."""

import json
import subprocess
import sys

import pytest

from service.infrastructure.logs import redact

LOGGING = """
import logging, structlog
from service.infrastructure.logs import configure
configure("worker")
log = structlog.get_logger()
with structlog.contextvars.bound_contextvars(job_id="j"):
    log.info("stage", stage="fetch")
    try:
        raise ValueError("s3://key:secret@bucket")
    except ValueError:
        log.exception("bug")
logging.getLogger("rq.worker").warning("from %s", "redis://:secret@host")
logging.getLogger("httpx").info("GET /?sig=secret")
"""


OF_LIBRARIES = """
import logging
from service.infrastructure.logs import configure, take_over_loggers
configure("worker")
import torch, transformers
take_over_loggers()
logging.getLogger("torch.utils._pytree").warning("of torch")
transformers.utils.logging.get_logger("transformers.models").warning("of transformers")
"""


def test_libraries_with_handlers_of_their_own_write_json_once() -> None:
    pytest.importorskip("torch", reason="the worker is not installed")
    done = subprocess.run([sys.executable, "-c", OF_LIBRARIES], capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["of torch", "of transformers"]
    assert done.stderr == ""


def test_log_line_is_json_with_its_context() -> None:
    done = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True)
    stage, bug, foreign = (json.loads(line) for line in done.stdout.splitlines())
    assert stage | {"ts": ""} == {
        "event": "stage", "stage": "fetch", "job_id": "j", "level": "info", "process": "worker", "ts": ""
    }  # fmt: skip
    assert bug["level"] == "error"
    assert "Traceback" in bug["exception"]
    assert (foreign["event"], foreign["level"]) == ("from redis://***@host", "warning")
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SECRETSECRET",
        "hf_SECRETSECRET",
        "whsec_SECRETSECRET",
        "slim_live_ab12_SECRETSECRET",
        "slim_prod1_first_SECRETSECRET",
        "https://b.s3.amazonaws.com/k?X-Amz-Signature=SECRETSECRET&X-Amz-Credential=SECRETSECRET",
        "http://h/artifacts/a?sig=SECRETSECRET",
        "redis://user:SECRETSECRET@host:6379/0",
    ],
)
def test_secret_text_is_redacted_at_any_depth(text: str) -> None:
    line = redact(None, "info", {"event": text, "nested": {"list": [text, 1, None]}})
    assert "SECRETSECRET" not in json.dumps(line)
    assert "***" in line["event"]
    assert line["nested"]["list"][1:] == [1, None]
    assert redact(None, "info", {"event": text}) == {"event": line["event"]}


@pytest.mark.parametrize("name", ["authorization", "redis_password", "AWS_SECRET_ACCESS_KEY", "api_key"])
def test_value_with_a_secret_name_is_redacted(name: str) -> None:
    assert redact(None, "info", {"headers": {name: "x"}}) == {"headers": {name: "***"}}


def test_other_values_are_kept() -> None:
    line = {"event": "stage", "tokens": 12, "url": "s3://bucket/key?versionId=3", "token_reduction": "sum"}
    assert redact(None, "info", dict(line)) == line
