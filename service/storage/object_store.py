"""The object store of the deployment, over obstore: a local directory, s3://, gs:// or az://.

`service.storage.keys` builds the keys. Endpoint and credentials of an object store come from its usual environment
variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS,
AZURE_STORAGE_...).

The files of a job have the prefix of their attempt, and the manifest names the files of the attempt that succeeded. The
manifest is written last and only if there is none, so that the result of a job becomes visible once.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from service.contract.errors import NotFound, StorageUnavailable

if TYPE_CHECKING:
    from obstore import GetOptions  # these have no runtime form
    from obstore.store import RetryConfig

CHUNK_BYTES = 2**20
# The retries are bounded by time alone: ten of them, the default of the library, take three seconds.
RETRY: "RetryConfig" = {
    "max_retries": 1000,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
}
SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=@+ -]{0,254}")


@dataclass(frozen=True)
class ObjectStat:
    """Size of an object in bytes, and its ETag, which changes with the content."""

    size: int
    etag: str | None


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise errors of obstore as NotFound or StorageUnavailable. Their texts may hold URLs and stay in the cause."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:  # ValueError: no object of the store can have such a name
        raise NotFound(f"{what} does not exist") from error
    except (BaseError, OSError) as error:
        if "NoSuchBucket" in str(error):  # a listing raises no error type of its own for it
            raise NotFound(f"the bucket of {what} does not exist") from error
        raise StorageUnavailable(f"the object store did not serve {what}: {type(error).__name__}") from error


def open_store(url: str, *, retry_seconds: float, create: bool = False) -> ObjectStore:
    """The obstore client for a prefix. With `create`, a directory at file:// is made if there is none."""
    if url.startswith("file://"):
        return LocalStore.from_url(url, mkdir=create, automatic_cleanup=create)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    plain_http = endpoint.startswith("http://")
    return from_url(
        url,
        client_options={"connect_timeout": "5s", **({"allow_http": True} if plain_http else {})},
        retry_config=RETRY | {"retry_timeout": timedelta(seconds=retry_seconds)},
    )


@lru_cache(maxsize=256)  # many jobs name the same model and rows
def path_of(url: str) -> Path:
    """The path that a file:// URL names; it must be absolute."""
    path = unquote(url.partition("://")[2])
    if not path.startswith("/"):
        raise NotFound(f"{url} is not absolute: write file:///directory")
    return Path(path)


def digest_file(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashedReader(io.BufferedReader):
    """A file whose content is hashed as it is read, from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.sha256 = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.sha256.update(content)
        return content


class Storage:
    """One prefix of an object store, or one local directory.

    Every method raises StorageUnavailable if the store does not answer within `retry_seconds`, and NotFound for a key
    that does not exist or that `service.storage.keys` could not have built.
    """

    def __init__(self, url: str, *, retry_seconds: float = 180) -> None:
        self.url = url
        self.local_root = path_of(url).resolve() if url.startswith("file://") else None
        with translated(f"the storage prefix {url.partition('://')[0]}://"):
            self._store = open_store(url, retry_seconds=retry_seconds, create=True)

    def put_file(self, path: Path, key: str) -> str:
        """Store a file, a large one in parts; the sha256 of what was stored, in hexadecimal.

        Readers see the whole object or none. The file is read once.
        """
        with self._object(key), HashedReader(path) as file:
            obstore.put(self._store, key, file)
            return file.sha256.hexdigest()

    def put_bytes(self, content: bytes, key: str) -> None:
        with self._object(key):
            obstore.put(self._store, key, content)

    def put_if_absent(self, content: bytes, key: str) -> bool:
        """Store `content` unless the key exists; return whether it was stored."""
        with self._object(key):
            try:
                obstore.put(self._store, key, content, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def get_bytes(self, key: str) -> bytes:
        with self._object(key):
            return bytes(obstore.get(self._store, key).bytes())

    def get_file(self, key: str, path: Path) -> None:
        """Download an object to `path`. The file appears when it is complete."""
        self._check(key)
        download(self._store, key, path)

    def stat(self, key: str) -> ObjectStat:
        with self._object(key):
            meta = obstore.head(self._store, key)
            return ObjectStat(size=meta["size"], etag=meta["e_tag"])

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except NotFound:
            return False
        return True

    def stream(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes [start, end) of an object in chunks of about a mebibyte. The request is sent at once."""
        with self._object(key):
            return pieces(self._store, key, None if end is None and start == 0 else (start, end or self.stat(key).size))

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """(key, size in bytes) of every object under a prefix, sorted by key."""
        with translated(prefix):
            found = [(meta["path"], meta["size"]) for chunk in obstore.list(self._store, prefix) for meta in chunk]
        return sorted((key, size) for key, size in found if self._is_inside(key))

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        try:
            with self._object(key):
                obstore.delete(self._store, key)
        except NotFound:
            return

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object under a prefix."""
        for key, _ in self.list(prefix):
            self.delete(key)

    def sign(self, key: str, seconds: int) -> str | None:
        """A URL that serves the object without credentials for `seconds`; None if the store is a directory."""
        if self.local_root is not None:
            return None
        with self._object(key):
            store: Any = self._store  # every remote store can sign
            return str(obstore.sign(store, "GET", key, timedelta(seconds=seconds)))

    def check(self) -> None:
        """Raise StorageUnavailable unless an object can be written."""
        try:
            self.put_bytes(b"", "ready")
        except NotFound as error:
            raise StorageUnavailable("the bucket of SLIM_STORAGE_URL does not exist") from error

    @contextmanager
    def _object(self, key: str) -> Iterator[None]:
        self._check(key)
        with translated(key):
            yield

    def _check(self, key: str) -> None:
        if not all(SEGMENT.fullmatch(segment) for segment in key.split("/")) or not self._is_inside(key):
            raise NotFound(f"{key!r} does not exist")

    def _is_inside(self, key: str) -> bool:
        """Whether the key stays inside a local store when symbolic links are followed, as obstore follows them."""
        return self.local_root is None or (self.local_root / key).resolve().is_relative_to(self.local_root)


def pieces(store: ObjectStore, key: str, span: tuple[int, int] | None = None) -> Iterator[bytes]:
    """The bytes of an object, or of the span [start, end), as they arrive. The request is sent before this returns."""
    options: GetOptions = {} if span is None else {"range": span}
    with translated(key):
        chunks = iter(obstore.get(store, key, options=options).stream(min_chunk_size=CHUNK_BYTES))
    return _translated_pieces(key, chunks)


def _translated_pieces(key: str, chunks: Iterator[Any]) -> Iterator[bytes]:
    while True:
        with translated(key):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield bytes(chunk)


def download(store: ObjectStore, key: str, path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Download an object to a temporary file and rename it to `path`, so that `path` is never incomplete.

    `on_bytes` is called about every mebibyte with the number of new bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as file:
        for piece in pieces(store, key):
            file.write(piece)
            on_bytes(len(piece))
    partial.replace(path)
