"""Reads files and directories at file://, s3://, gs:// and az:// URIs.

`service.sources.hub` reads hf://, `service.sources.job_checkpoints` reads job://. The rows of dataset:// URIs are in
the deployment's own store.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import obstore

from service.contract.errors import ForbiddenPath, InvalidRequest, NotFound
from service.storage.object_store import download, open_store, path_of, pieces, translated

if TYPE_CHECKING:
    from obstore import ObjectMeta  # it has no runtime form

LOCAL = "file"
NESTED_NAME = "config.json"  # of the files in the directories of a directory
REMOTE = frozenset({"s3", "gs", "az"})


def scheme_of(uri: str) -> str:
    """The scheme of a URI, such as `s3` of `s3://bucket/prefix`; empty if it has none."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator else ""


def local_path(uri: str, roots: Sequence[Path] = ()) -> Path:
    """The path of a file:// URI, with symbolic links resolved if there are `roots`.

    Raises ForbiddenPath if the path is under none of the `roots` (empty: all paths are allowed), and NotFound if there
    is no such path.
    """
    return locate(uri, roots)[0]


def locate(uri: str, roots: Sequence[Path] = ()) -> tuple[Path, os.stat_result]:
    """(path, its status) of a file:// URI. Raises as `local_path`."""
    path = path_of(uri)
    try:
        if roots:
            path = _inside(path, uri, [root.resolve() for root in roots])
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{uri} does not exist on the machine that reads it") from error
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a NUL, a name too long, a loop of links
        raise NotFound(f"{uri} cannot be read") from error
    return path, found


def _inside(path: Path, uri: str, roots: Sequence[Path]) -> Path:
    """The resolved path. Raises ForbiddenPath if it, or a link in the directory, leads out of the roots."""
    path = path.resolve()
    if not _is_inside(path, roots):
        raise ForbiddenPath(f"{uri} is outside the directories that this deployment allows (SLIM_LOCAL_ROOTS)")
    if path.is_dir():
        with os.scandir(path) as entries:
            for link in [entry for entry in entries if entry.is_symlink()]:
                if not _is_inside(Path(link).resolve(), roots):
                    raise ForbiddenPath(
                        f"{uri} has the link {link.name}, which leads out of the directories that are allowed"
                    )
    return path


def _is_inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def list_sizes(uri: str, *, retry_seconds: float = 30) -> dict[str, int]:
    """Name -> size in bytes of every file below the directory `uri`; names are relative to it."""
    if scheme_of(uri) == LOCAL:
        root = path_of(uri)
        return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    with translated(uri):
        store = open_store(_remote(uri), retry_seconds=retry_seconds)
        return {meta["path"]: meta["size"] for chunk in obstore.list(store) for meta in chunk}


def file_size(uri: str, *, retry_seconds: float = 30) -> int:
    """The size in bytes of one file at a remote URI. Raises NotFound."""
    directory, _, name = _remote(uri).rpartition("/")
    with translated(uri):
        return obstore.head(open_store(directory, retry_seconds=retry_seconds), name)["size"]


def file_marks(uri: str, *, retry_seconds: float = 30) -> dict[str, str]:
    """Name -> mark of every file in the directory `uri`, and of the config.json of each directory in it. A mark changes
    with the file. Raises NotFound."""
    if scheme_of(uri) == LOCAL:
        with translated(uri):
            root = path_of(uri)
            entries = [entry / NESTED_NAME if entry.is_dir() else entry for entry in root.iterdir()]
            return {str(path.relative_to(root)): _local_mark(path) for path in entries if path.is_file()}
    with translated(uri):
        store = open_store(_remote(uri), retry_seconds=retry_seconds)
        return {meta["path"]: _remote_mark(meta) for chunk in obstore.list(store) for meta in chunk}


def file_mark(uri: str, *, retry_seconds: float = 30) -> str:
    """The mark of one file: its size and its time of change or ETag. Raises NotFound."""
    with translated(uri):
        if scheme_of(uri) == LOCAL:
            return _local_mark(path_of(uri))
        directory, _, name = _remote(uri).rpartition("/")
        return _remote_mark(obstore.head(open_store(directory, retry_seconds=retry_seconds), name))


def _local_mark(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size}-{found.st_mtime_ns}"


def _remote_mark(meta: "ObjectMeta") -> str:
    return f"{meta['size']}-{meta['e_tag']}"


def read_bytes(uri: str, *, retry_seconds: float = 30) -> bytes:
    """The bytes of a small file. Raises NotFound."""
    if scheme_of(uri) == LOCAL:
        with translated(uri):
            return path_of(uri).read_bytes()
    directory, name = uri.rsplit("/", 1)
    with translated(uri):
        store = open_store(_remote(directory), retry_seconds=retry_seconds)
    return b"".join(pieces(store, name))


def read_range(uri: str, start: int, end: int, *, retry_seconds: float = 30) -> bytes:
    """The bytes [start, end) of a file. Raises NotFound."""
    if scheme_of(uri) == LOCAL:
        with translated(uri), path_of(uri).open("rb") as file:
            file.seek(start)
            return file.read(end - start)
    directory, name = uri.rsplit("/", 1)
    with translated(uri):
        store = open_store(_remote(directory), retry_seconds=retry_seconds)
    return b"".join(pieces(store, name, (start, end)))


def fetch_prefix(
    uri: str,
    directory: Path,
    *,
    roots: Sequence[Path] = (),
    wanted: Callable[[str], bool] = lambda name: True,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
    retry_seconds: float = 180,
) -> Path:
    """A local directory with the files of the directory `uri`: a file:// directory itself, or `directory` with a copy.

    Files whose names are not `wanted` are not downloaded. `on_bytes` is called with the bytes that were downloaded and
    the bytes in all. Raises NotFound if no file is wanted, ForbiddenPath, StorageUnavailable.
    """
    if scheme_of(uri) == LOCAL:
        return local_path(uri, roots)
    with translated(uri):
        store = open_store(_remote(uri), retry_seconds=retry_seconds)
        found = {meta["path"]: meta["size"] for chunk in obstore.list(store) for meta in chunk}
    sizes = {name: size for name, size in found.items() if wanted(name)}
    if not sizes:
        raise NotFound(f"{uri} holds no file of a model")
    done, total = 0, sum(sizes.values())

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_bytes(done, total)

    for name in sizes:
        download(store, name, _below(directory, name), count)
    return directory


def _below(directory: Path, name: str) -> Path:
    """The path for a downloaded file. Raises ForbiddenPath for a name that leads out of the directory."""
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ForbiddenPath(f"the object store holds a file named {name!r}, which leads out of its directory")
    return path


def fetch_file(uri: str, directory: Path, *, roots: Sequence[Path] = (), retry_seconds: float = 180) -> Path:
    """The path of the file `uri` on this machine: a file:// path itself, or a copy under its name in `directory`.

    Raises NotFound, ForbiddenPath, StorageUnavailable.
    """
    if scheme_of(uri) == LOCAL:
        return local_path(uri, roots)
    parent, name = uri.rsplit("/", 1)
    with translated(uri):
        store = open_store(_remote(parent), retry_seconds=retry_seconds)
    path = _below(directory, name)
    download(store, name, path)
    return path


def _remote(uri: str) -> str:
    if scheme_of(uri) not in REMOTE:
        raise InvalidRequest(f"{uri} has none of the schemes file://, s3://, gs://, az://")
    return uri.rstrip("/")
