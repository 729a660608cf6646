"""A submission reads each small file of its model once, and lists the directory once."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support import checkpoints
from tests.support.planning import request_for

AUDITED = ("open", "os.scandir", "os.listdir")


class FileAudit:
    """Counts how often the files of a directory are opened, and the directory is listed, in this process."""

    def __init__(self) -> None:
        self.directory: Path | None = None
        self.counts: Counter[str] = Counter()
        sys.addaudithook(self._hear)  # Python cannot remove a hook: it stays, and counts nothing without a directory

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.directory is None or event not in AUDITED or not isinstance(arguments[0], str | Path):
            return
        path = Path(arguments[0])
        if path == self.directory or path.parent == self.directory:
            self.counts["listing" if path == self.directory else path.name] += 1

    @contextmanager
    def of(self, directory: Path) -> Iterator[Counter[str]]:
        """The counts while the block runs."""
        self.directory, self.counts = directory, Counter()
        try:
            yield self.counts
        finally:
            self.directory = None


@pytest.fixture(scope="module")
def audit() -> FileAudit:
    return FileAudit()


@pytest.mark.parametrize("path", ["/jobs", "/plans"])
@pytest.mark.parametrize("target", [{"ratio": 0.3}, {"parameters": 22_000}], ids=["ratio", "parameters"])
def test_one_submission_reads_each_file_once(
    path: str, target: dict[str, Any], client: TestClient, tmp_path: Path, audit: FileAudit
) -> None:
    checkpoints.write(tmp_path / "model", "llama")
    body = request_for(tmp_path / "model", target=target).model_dump(mode="json", exclude_unset=True)
    with audit.of(tmp_path / "model") as counts:
        answer = client.post(path, json=body)
    assert answer.status_code < 300, answer.text
    # A plan lists the directory once more, for the marks by which it finds stored scores.
    listings = {"listing": counts.pop("listing")}
    assert listings == {"listing": 1 if path == "/jobs" else 2}
    settings = ("config.json", "generation_config.json", "tokenizer_config.json")
    assert counts == dict.fromkeys((*settings, "tokenizer.json", "model.safetensors"), 1)


def test_sharded_weights_are_opened_once_each(client: TestClient, tmp_path: Path, audit: FileAudit) -> None:
    model = checkpoints.write(tmp_path / "one", "llama")
    model.save_pretrained(tmp_path / "many", max_shard_size=20_000)
    (tmp_path / "many/tokenizer.json").write_text('{"model": {}}')
    shards = [path.name for path in (tmp_path / "many").glob("*.safetensors")]
    assert len(shards) > 1
    body = request_for(tmp_path / "many").model_dump(mode="json", exclude_unset=True)
    with audit.of(tmp_path / "many") as counts:
        assert client.post("/jobs", json=body).status_code == 202
    small = ("listing", "config.json", "generation_config.json", "tokenizer.json", "model.safetensors.index.json")
    assert counts == dict.fromkeys((*small, *shards), 1)
