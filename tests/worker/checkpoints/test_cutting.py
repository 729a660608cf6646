"""Slim models and the checkpoints that are written of them."""

from pathlib import Path

import pytest
import torch

from service.contract.options import Layout
from tests.support import checkpoints
from worker.checkpoints import dtypes
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.loading import load_model
from worker.checkpoints.saving import save_model
from worker.slimming.units.groups import Site

CPU = torch.device("cpu")


def test_a_slim_model_has_weights_that_its_checkpoint_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: False)
    checkpoints.write(tmp_path / "model", dtype=torch.bfloat16)
    loaded = load_model(tmp_path / "model", device=CPU)
    weight = loaded.model.get_parameter("model.layers.0.mlp.down_proj.weight")
    weight.add_(1e-5)
    dtypes.round_weights(loaded.model, loaded.dtype)
    slim = make_slim(loaded, {Site("decoder", layer, "ffn"): torch.arange(16) for layer in (0, 1)}, Layout.uniform)
    measured = {name: parameter.clone() for name, parameter in slim.model.named_parameters()}
    save_model(slim, tmp_path / "slim")
    written = load_model(tmp_path / "slim", device=CPU).model
    assert all(torch.equal(written.get_parameter(name), value) for name, value in measured.items())
