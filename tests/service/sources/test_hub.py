"""The files of a model on a hub that cannot be reached."""

from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from service.contract.errors import (
    StorageUnavailable,
)
from service.sources.hub import HubFiles
from tests.support.hub_cache import cache_hub_model
from tests.support.ports import free_port


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return cache_hub_model(monkeypatch, tmp_path)


def no_download(*_: object, **__: object) -> str:
    raise AssertionError("a hub that is away is not asked for files")


@pytest.mark.parametrize(
    "look", [HubFiles.commit, lambda files: files.content("config.json"), lambda files: files.has("config.json")]
)
def test_a_hub_that_refuses_the_connection_is_unavailable_at_once(
    look: Callable[[HubFiles], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.sources.hub.hf_hub_download", no_download)  # it would ask again and again
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailable, match="the hub does not answer"):
        look(HubFiles("owner/other", None))
