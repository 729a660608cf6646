"""Measurements that overflow end the scoring, and the job with a code that names the layer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.contract.errors import InvalidModel
from tests.support.pipeline_jobs import Deployment
from worker.slimming.scoring.finite import NotFinite, check_finite
from worker.slimming.units.groups import Site


def test_sums_that_overflow_end_the_job_with_the_layer(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    deployment = Deployment(tmp_path)
    request = deployment.request(method={"criterion": "surgeon"})
    path = tmp_path / "llama/model.safetensors"
    tensors = load_file(path)
    # Activations whose squares are beyond float32, which the next matrix brings back.
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e30
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1e-30
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(InvalidModel, match=r"of the ffn in layer 1 of the decoder are not finite") as caught:
        deployment.run(request)
    assert caught.value.param == "model.uri"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_enough(value: float) -> None:
    site = Site("encoder", 3, "heads")
    check_finite(site, torch.ones(4), None)
    with pytest.raises(NotFinite, match="heads in layer 3 of the encoder"):
        check_finite(site, torch.ones(4), torch.tensor([1.0, value]))
