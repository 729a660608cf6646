"""One interface, the same behaviour on a local directory and on a real S3 server."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from ulid import ULID

from service.contract.errors import ForbiddenPath, NotFound, StorageUnavailable
from service.sources.readers import fetch_file, fetch_prefix, list_sizes, local_path, read_bytes
from service.storage import object_store
from service.storage.keys import attempt_prefix, dataset_key, manifest_key
from service.storage.object_store import HashedReader, Storage, digest_file
from tests.support import http
from tests.support.s3_server import credentials, s3_ports, s3_server


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty prefix of its own for each test."""
    if request.param == "local":
        return (tmp_path / "a store").as_uri()
    request.getfixturevalue("s3")
    Storage("s3://tests").check()  # makes the bucket
    return f"s3://tests/{ULID()}"


@pytest.fixture
def store(url: str) -> Storage:
    return Storage(url, retry_seconds=10)


def test_what_was_put_comes_back(store: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(bytes(range(256)) * 50_000)  # 12.8 MB: several parts
    digest = store.put_file(source, "default/big")
    store.get_file("default/big", target)
    assert digest == digest_file(target) == digest_file(source)
    assert b"".join(store.stream("default/big")) == source.read_bytes()
    assert store.stat("default/big").size == source.stat().st_size
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20, 12 * 2**20 + 1])
def test_stored_file_is_hashed_while_it_is_read_once(
    store: Storage, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, read = tmp_path / "source", list[int]()
    source.write_bytes(os.urandom(size))

    class Counted(HashedReader):
        def read(self, count: int | None = -1, /) -> bytes:
            content = super().read(count)
            read.append(len(content))
            return content

    monkeypatch.setattr(object_store, "HashedReader", Counted)
    assert store.put_file(source, "default/file") == hashlib.sha256(source.read_bytes()).hexdigest()
    assert store.get_bytes("default/file") == source.read_bytes()
    assert sum(read) == size


def test_a_range_is_what_was_asked_for(store: Storage) -> None:
    store.put_bytes(b"0123456789", "default/ten")
    assert b"".join(store.stream("default/ten", 2, 5)) == b"234"
    assert b"".join(store.stream("default/ten", 7)) == b"789"


def test_an_empty_object_is_an_object(store: Storage) -> None:
    store.put_bytes(b"", "default/empty")
    assert store.get_bytes("default/empty") == b""
    assert b"".join(store.stream("default/empty")) == b""


def test_the_first_manifest_stays(store: Storage) -> None:
    key = manifest_key("default", "J1")
    assert store.put_if_absent(b"first", key)
    assert not store.put_if_absent(b"second", key)
    assert store.get_bytes(key) == b"first"


def test_deleting_a_prefix_leaves_its_neighbours(store: Storage) -> None:
    for attempt in (1, 10):
        store.put_bytes(b"x", f"{attempt_prefix('default', 'J1', attempt)}model/config.json")
    store.put_bytes(b"rows", dataset_key("default", "D1"))
    store.delete_prefix(attempt_prefix("default", "J1", 1))
    assert [key for key, _ in store.list("default")] == [
        "default/datasets/D1/rows.jsonl",
        "default/jobs/J1/attempt-10/model/config.json",
    ]
    store.delete_prefix(attempt_prefix("default", "J1", 1))
    store.delete("default/never")


def test_a_missing_object_is_not_found(store: Storage) -> None:
    assert not store.exists("default/nothing")
    for ask in (store.get_bytes, store.stat, store.stream):
        with pytest.raises(NotFound):
            ask("default/nothing")
    assert store.list("default/nothing") == []


@pytest.mark.parametrize("key", ["../etc/passwd", "a/../../b", "/etc/passwd", "a//b", "", ".", "a/\0", "a\nb", "é"])
def test_a_key_that_no_key_function_builds_does_not_exist(store: Storage, key: str) -> None:
    for ask in (store.get_bytes, store.stat, store.stream, lambda key: store.put_bytes(b"", key)):
        with pytest.raises(NotFound):
            ask(key)
    assert store.list("") == []


def test_a_local_store_does_not_follow_a_link_out_of_its_root(tmp_path: Path) -> None:
    store = Storage((tmp_path / "store").as_uri())
    store.put_bytes(b"x", "default/inside")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("s")
    (tmp_path / "store" / "default" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(NotFound):
        store.get_bytes("default/link/key")
    with pytest.raises(NotFound):
        store.put_bytes(b"", "default/link/new")
    assert [key for key, _ in store.list("default")] == ["default/inside"]


def test_a_signed_url_serves_without_credentials_and_cannot_be_altered(s3: str) -> None:
    store = Storage(f"s3://tests/{ULID()}")
    store.put_bytes(b"content", "default/file")
    url = store.sign("default/file", 60)
    assert url is not None
    assert http.get(url).content == b"content"
    assert http.get(url.replace("default/file", "default/other")).status_code == 403
    assert http.get(url.partition("?")[0]).status_code == 403


def test_a_directory_signs_nothing(tmp_path: Path) -> None:
    assert Storage(tmp_path.as_uri()).sign("default/file", 60) is None


def test_a_store_that_does_not_answer_is_unavailable(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = Storage("s3://tests", retry_seconds=1)
    for ask in (store.check, lambda: store.get_bytes("x"), lambda: store.list("x")):
        with pytest.raises(StorageUnavailable, match="did not serve") as caught:
            ask()
        assert "127.0.0.1" not in caught.value.message


def test_a_bucket_that_does_not_exist_is_not_found(s3: str) -> None:
    with pytest.raises(NotFound, match="bucket"):
        list_sizes("s3://no-such-bucket/model")


def test_wrong_credentials_are_not_a_missing_object(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageUnavailable):
        Storage("s3://tests", retry_seconds=1).get_bytes("x")


# --- what a request names ------------------------------------------------------------------------------------------


def test_a_directory_and_a_file_are_fetched_from_any_store(url: str, store: Storage, tmp_path: Path) -> None:
    store.put_bytes(b"{}", "models/m/config.json")
    store.put_bytes(b"w", "models/m/sub/model.safetensors")
    assert list_sizes(f"{url}/models/m") == {"config.json": 2, "sub/model.safetensors": 1}
    assert read_bytes(f"{url}/models/m/config.json") == b"{}"
    directory = fetch_prefix(f"{url}/models/m", tmp_path / "scratch")
    assert (directory / "sub" / "model.safetensors").read_bytes() == b"w"
    assert fetch_file(f"{url}/models/m/config.json", tmp_path / "rows").read_bytes() == b"{}"


def test_what_a_request_names_and_is_not_there_is_not_found(url: str, tmp_path: Path) -> None:
    for fetch in (fetch_prefix, fetch_file):
        with pytest.raises(NotFound):
            fetch(f"{url}/nothing/here", tmp_path / "scratch")
    with pytest.raises(NotFound):
        read_bytes(f"{url}/nothing/config.json")


def test_local_paths_end_at_the_roots_links_included(tmp_path: Path) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    allowed.mkdir()
    other.mkdir()
    assert local_path(allowed.as_uri(), [allowed]) == allowed
    (allowed / "link").symlink_to(other)
    for path in (other, allowed / "link", allowed / ".." / "other"):
        with pytest.raises(ForbiddenPath, match="SLIM_LOCAL_ROOTS"):
            local_path(f"file://{path}", [allowed])
        assert local_path(f"file://{path}").samefile(other)


@pytest.mark.parametrize("uri", ["file://relative", "file://", "file:///a%00b", f"file:///{'a' * 5000}"])
def test_a_path_that_cannot_be_one_is_not_found(uri: str) -> None:
    with pytest.raises(NotFound):
        local_path(uri)


@pytest.mark.slow
def test_a_write_outlasts_a_restart_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = s3_ports()
    with s3_server(tmp_path, ports) as endpoint:
        for name, value in credentials(endpoint).items():
            monkeypatch.setenv(name, value)
        store = Storage("s3://tests/restart", retry_seconds=120)
        store.put_bytes(b"before", "default/before")
    with ThreadPoolExecutor() as pool:
        late = pool.submit(store.put_bytes, b"late", "default/late")
        assert not wait([late], timeout=4).done  # longer than the client's ten retries by default take
        with s3_server(tmp_path, ports):
            late.result(60)
            assert [store.get_bytes(f"default/{name}") for name in ("before", "late")] == [b"before", b"late"]
