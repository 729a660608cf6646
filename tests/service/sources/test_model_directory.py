"""The small files of a model in a directory, a bucket or the store of the deployment."""

from pathlib import Path

import pytest
from ulid import ULID

from service.contract.answers.resources import Manifest, StoredFile
from service.contract.errors import InvalidModel, UnsupportedFamily
from service.contract.request.task import ModelSource
from service.sources.access import Access
from service.sources.checkpoint import read_checkpoint
from service.sources.model_directory import ModelDirectory
from service.storage.keys import attempt_prefix, manifest_key
from service.storage.object_store import Storage, digest_file
from tests.support import checkpoints


def store_as_job(storage: Storage, directory: Path) -> str:
    """Store the files of a directory as the checkpoint of a job that succeeded; its URI."""
    job_id, names = str(ULID()), [path.name for path in directory.iterdir()]
    for name in names:
        storage.put_file(directory / name, f"{attempt_prefix('default', job_id, 1)}model/{name}")
    files = [
        StoredFile(name=f"model/{name}", size=(directory / name).stat().st_size, sha256=digest_file(directory / name))
        for name in names
    ]
    manifest = Manifest(job_id=job_id, attempt=1, files=files)
    storage.put_bytes(manifest.model_dump_json().encode(), manifest_key("default", job_id))
    return f"job://{job_id}"


def store_in_bucket(directory: Path) -> str:
    """Store the files of a directory in a bucket; the URI of the prefix."""
    prefix = f"s3://tests/{ULID()}"
    store = Storage(prefix)
    for path in directory.iterdir():
        store.put_file(path, f"model/{path.name}")
    return f"{prefix}/model"


@pytest.mark.parametrize("place", ["file", "job", "s3"])
def test_a_checkpoint_reads_the_same_wherever_it_is(
    place: str, request: pytest.FixtureRequest, access: Access, tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    model = checkpoints.write(directory, "llama")
    if place == "s3":
        request.getfixturevalue("s3")
    uri = directory.as_uri()
    if place != "file":
        uri = store_in_bucket(directory) if place == "s3" else store_as_job(access.storage, directory)
    checkpoint = read_checkpoint(ModelDirectory.of(ModelSource(uri=uri), access))
    assert checkpoint.family.model_type == "llama"
    assert checkpoint.stored_bytes == (directory / "model.safetensors").stat().st_size
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }


def test_damaged_files_are_named(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "llama")
    source = ModelSource(uri=tmp_path.as_uri())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 8)
    with pytest.raises(InvalidModel, match=r"model\.safetensors is damaged: its header would have"):
        _ = ModelDirectory.of(source, access).headers
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(UnsupportedFamily, match="mamba"):
        _ = ModelDirectory.of(source, access).family
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InvalidModel, match=r"has a config\.json that is not a JSON object"):
        _ = ModelDirectory.of(source, access).config


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": {"a": "b"}}'])
def test_an_index_must_name_files_of_its_directory(index: str, access: Access, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InvalidModel, match="does not name files of its own directory"):
        _ = ModelDirectory.of(ModelSource(uri=tmp_path.as_uri()), access).headers
