"""Score sets like those that jobs store."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import numpy
from safetensors.numpy import save

from service.contract.answers.resources import MeasuredScores, ScoreKind

TENSORS = {"0.decoder.0.ffn": [4.0, 1.0, 3.0, 2.0], "0.decoder.1.ffn": [0.5, 2.5, 1.5, 3.5]}


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def safetensors(tensors: dict[str, list[float]] = TENSORS, **metadata: str) -> bytes:
    """A safetensors file of float32 vectors."""
    return save({name: numpy.array(values, numpy.float32) for name, values in tensors.items()}, metadata)


def measured(content: bytes, digest: str = digest_of("scores"), **fields: Any) -> MeasuredScores:
    """The record of a file of unit scores."""
    known: dict[str, Any] = {
        "digest": digest,
        "kind": ScoreKind.units,
        "job_id": "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
        "model": {"uri": "file:///models/tiny"},
        "family": "llama",
        "task": {"template": "{text}:"},
        "method": {},
        "ratios": [0.0],
        "rows": 12,
        "digests": {"model": digest_of("model")},
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "created_at": datetime.now(UTC),
    }
    return MeasuredScores.model_validate(known | fields)
