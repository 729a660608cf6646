"""Models as they are written."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support import checkpoints
from tests.support.tiny_models import logits
from worker.checkpoints import dtypes
from worker.checkpoints.dtypes import weight_dtypes
from worker.checkpoints.loading import load_model
from worker.checkpoints.saving import save_model

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "computed_in"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)],
)
@pytest.mark.parametrize("name", ["llama", "t5_gated"])
def test_a_checkpoint_is_saved_in_its_own_dtype(
    tmp_path: Path, name: str, dtype: torch.dtype, computed_in: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: True)
    checkpoints.write(tmp_path / "model", name, dtype)
    loaded = load_model(tmp_path / "model", device=CPU)
    before = logits(loaded.model)
    assert set(weight_dtypes(loaded.model).values()) == {computed_in}
    save_model(loaded, tmp_path / "again")
    written, original = (load_file(tmp_path / name / "model.safetensors") for name in ("again", "model"))
    assert {tensor.dtype for tensor in written.values()} == {dtype}
    assert all(torch.equal(written[key], original[key]) for key in original)
    assert torch.equal(logits(loaded.model), before)


def test_saved_weights_have_the_permissions_of_the_config(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "llama", torch.float32)
    save_model(load_model(tmp_path / "model", device=CPU), tmp_path / "again")
    modes = {(tmp_path / "again" / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1
