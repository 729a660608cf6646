"""The local cache of the hub's client with one tiny model, and no network."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.support import checkpoints

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_hub_model(monkeypatch: pytest.MonkeyPatch, directory: Path, name: str = "llama") -> Path:
    """Let the client see a model of TINY as hf://owner/name in its cache below `directory`, offline; the model's
    directory."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(directory / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = directory / "hub/models--owner--name"
    checkpoints.write(repository / "snapshots" / COMMIT, name)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT
