"""GGUF files that are refused. Those that are converted need a real model (`tests/test_real_model.py`)."""

from pathlib import Path

import pytest
from gguf import GGUFWriter

from service.contract.errors import InvalidModel, UnsupportedFamily
from worker.checkpoints.gguf import convert_gguf


def test_a_damaged_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(InvalidModel, match="not a readable GGUF"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "cache")


def test_a_gguf_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedFamily, match="'mamba' are not supported"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "cache")
