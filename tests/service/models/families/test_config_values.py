"""Values that no class of transformers can have are refused by name, in a plan and by the worker."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from service.contract.errors import InvalidModel
from service.models.families.config_values import ACTIVATIONS, ROPES
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.checkpoints import change_config, change_json
from tests.support.pipeline_jobs import Deployment
from tests.support.planning import request_for
from tests.support.tiny_models import logits
from worker.checkpoints.loading import LoadedModel, load_model

# File, field and value.
DAMAGED: list[tuple[str, str, Any]] = [
    ("config.json", "num_attention_heads", -4),
    ("config.json", "num_hidden_layers", 10**9),
    ("config.json", "intermediate_size", "48"),
    ("config.json", "vocab_size", 129),
    ("config.json", "dtype", "float13"),
    ("config.json", "dtype", "float8_e4m3fn"),
    ("config.json", "hidden_act", "smooth"),
    ("config.json", "rope_scaling", {"rope_type": "wide", "factor": 2.0}),
    ("config.json", "rope_scaling", "linear"),
    ("config.json", "eos_token_id", "</s>"),
    ("config.json", "id2label", {"negative": "0"}),
    ("generation_config.json", "eos_token_id", "</s>"),
]
RUN_OPTIONS: list[dict[str, Any]] = [
    {"attn_implementation": "flash_attention_2"},
    {"_attn_implementation": "flash_attention_2"},
    {"return_dict": False},
    {"use_return_dict": False},
    {"output_attentions": True},
    {"output_hidden_states": True},
]


def loaded(directory: Path) -> LoadedModel:
    return load_model(directory, device=torch.device("cpu"))


def test_the_names_are_those_of_transformers() -> None:
    assert {*ACT2FN} == ACTIVATIONS
    assert {*ROPE_INIT_FUNCTIONS} <= ROPES


@pytest.mark.parametrize(("file", "field", "value"), DAMAGED, ids=str)
def test_a_damaged_field_is_refused_by_name(file: str, field: str, value: Any, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path)
    change_json(tmp_path / file, **{field: value})
    with pytest.raises(InvalidModel, match=field) as planned:
        plan(request_for(tmp_path), access)
    with pytest.raises(InvalidModel) as refused:
        loaded(tmp_path)
    assert planned.value.param == refused.value.param == "model.uri"


def test_a_divisor_of_zero_of_one_family_alone_is_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "gemma3_text")
    change_config(tmp_path, query_pre_attn_scalar=0)
    with pytest.raises(InvalidModel, match="cannot be loaded"):
        loaded(tmp_path)


def test_a_negative_size_of_one_family_alone_is_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "t5")
    change_config(tmp_path, relative_attention_num_buckets=-1)
    with pytest.raises(InvalidModel, match="shapes"):
        loaded(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{", '"greedy"'])
def test_a_generation_config_that_is_no_object_is_refused(content: str, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(InvalidModel, match=r"generation_config\.json"):
        plan(request_for(tmp_path), access)
    with pytest.raises(InvalidModel, match=r"generation_config\.json"):
        loaded(tmp_path)


def test_a_config_in_utf_16_is_refused(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path)
    request, path = request_for(tmp_path), tmp_path / "config.json"
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(InvalidModel, match=r"config\.json"):
        plan(request, access)
    with pytest.raises(InvalidModel, match=r"config\.json"):
        loaded(tmp_path)


def test_a_tokenizer_without_a_model_is_refused(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidModel, match=r"tokenizer\.json"):
        plan(request_for(tmp_path), access)
    with pytest.raises(InvalidModel, match="tokenizer"):
        loaded(tmp_path)


@pytest.mark.parametrize("options", RUN_OPTIONS, ids=lambda options: next(iter(options)))
def test_how_a_program_runs_the_model_does_not_matter(options: dict[str, Any], tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    request = deployment.request()
    before = logits(loaded(tmp_path / "llama").model)
    change_config(tmp_path / "llama", **options)
    assert torch.equal(logits(loaded(tmp_path / "llama").model), before)
    deployment.run(request)
    deployment.download(tmp_path / "downloaded")
    assert not options.keys() & json.loads((tmp_path / "downloaded/model/config.json").read_text()).keys()


def test_weights_in_float64_are_slimmed_in_the_dtype_of_the_config(tmp_path: Path, access: Access) -> None:
    deployment = Deployment(tmp_path)
    request = deployment.request()
    path = tmp_path / "llama/model.safetensors"
    save_file({name: tensor.double() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    plan(request, access)
    deployment.run(request)
    deployment.download(tmp_path / "downloaded")
    slim = load_file(tmp_path / "downloaded/model/model.safetensors")
    assert {tensor.dtype for tensor in slim.values()} == {torch.float32}


@pytest.mark.parametrize("part", ["mlp", "layers"])
def test_a_model_with_weights_of_zero_is_slimmed(part: str, tmp_path: Path) -> None:
    """No unit of a block is ever active, so that nothing tells its units apart."""
    deployment = Deployment(tmp_path)
    request = deployment.request()
    path = tmp_path / "llama/model.safetensors"
    weights = {name: tensor * (part not in name) for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert deployment.run(request).ratio > 0
