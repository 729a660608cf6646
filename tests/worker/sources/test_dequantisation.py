"""Quantised checkpoints are dequantised to what their values stand for, and the plan knows their sizes."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, FineGrainedFP8Config, PreTrainedModel

from service.contract.errors import InvalidModel
from service.planning.plan import plan
from service.sources.access import Access
from service.sources.quantised_layouts import LAYOUTS
from tests.support import checkpoints
from tests.support.planning import request_for
from tests.support.quantised_models.formats import FORMATS
from tests.support.quantised_models.stored import changing_tensors, fetch, write
from tests.support.tiny_models import logits
from worker.checkpoints.dtypes import cast_weights
from worker.checkpoints.loading import count_parameters, load_model
from worker.sources.dequantised_values import VALUES

CPU = torch.device("cpu")
UP = "model.layers.0.mlp.up_proj"


def assert_equal(directory: Path, expected: PreTrainedModel, dtype: torch.dtype) -> None:
    """Assert that the directory has a checkpoint of this dtype with the values and the logits of the model."""
    loaded = load_model(directory, device=CPU)
    assert loaded.dtype is dtype
    cast_weights(loaded.model, torch.float32)
    weights = loaded.model.state_dict()
    assert [name for name, tensor in expected.state_dict().items() if not torch.equal(weights[name], tensor)] == []
    assert torch.equal(logits(loaded.model), logits(expected))


def test_every_layout_has_a_formula() -> None:
    assert VALUES.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_a_dequantised_model_is_what_its_values_stand_for_and_what_is_planned(
    tmp_path: Path, access: Access, name: str
) -> None:
    expected = write(tmp_path / "model", FORMATS[name])
    fetched, planned = fetch(tmp_path / "model"), plan(request_for(tmp_path / "model"), access)
    assert_equal(fetched.directory, expected, torch.bfloat16)
    assert fetched.fetched == tmp_path / "model"
    assert planned.dequantised == fetched.dequantised
    assert planned.dequantised is not None
    assert (planned.dequantised.format, planned.dequantised.dtype) == (FORMATS[name].name, "bfloat16")
    assert planned.dequantised.bytes == (fetched.directory / "model.safetensors").stat().st_size
    assert planned.parameters.dense == count_parameters(expected)
    assert planned.bytes.dense == (tmp_path / "model/model.safetensors").stat().st_size
    plain = plan(request_for(fetched.directory), access)
    assert plain.dequantised is None
    assert (plain.parameters, plain.bytes.slim) == (planned.parameters, planned.bytes.slim)


@pytest.mark.parametrize("dtype", ["float16", "float32", None, "float8_e4m3fn"])
def test_weights_get_the_dtype_that_config_json_says_or_bfloat16(
    tmp_path: Path, access: Access, dtype: str | None
) -> None:
    expected = write(tmp_path / "model", FORMATS["fp8 row"], dtype=dtype)
    fetched, planned = fetch(tmp_path / "model"), plan(request_for(tmp_path / "model"), access)
    becomes = dtype if dtype in ("float16", "float32") else "bfloat16"
    assert_equal(fetched.directory, expected, getattr(torch, becomes))
    assert planned.dequantised == fetched.dequantised
    assert planned.bytes.slim == plan(request_for(fetched.directory), access).bytes.slim


@pytest.mark.parametrize("name", ["llm.int8", "nf4", "gptq reordered"])
def test_layers_that_a_class_holds_transposed_are_turned(tmp_path: Path, access: Access, name: str) -> None:
    expected = write(tmp_path / "model", FORMATS[name], "gpt2")
    fetched, planned = fetch(tmp_path / "model"), plan(request_for(tmp_path / "model"), access)
    assert_equal(fetched.directory, expected, torch.bfloat16)
    assert planned.parameters == plan(request_for(fetched.directory), access).parameters


def test_an_adapter_is_merged_into_the_dequantised_weights(tmp_path: Path, access: Access) -> None:
    expected = write(tmp_path / "model", FORMATS["nf4"], dtype="float32")
    checkpoints.write_adapter(tmp_path / "adapter")
    fetched = fetch(tmp_path / "model")
    merged = load_model(fetched.directory, device=CPU, adapter=tmp_path / "adapter").model
    with_adapter = PeftModel.from_pretrained(expected, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(merged), logits(cast(PreTrainedModel, with_adapter)), rtol=1e-4, atol=1e-5)
    model = {"uri": (tmp_path / "model").as_uri(), "adapter_uri": (tmp_path / "adapter").as_uri()}
    planned = plan(request_for(tmp_path / "model", model=model), access)
    assert planned.parameters.dense == count_parameters(merged)


STOCK: dict[str, Callable[[], Any]] = {
    "fp8 blocks": lambda: FineGrainedFP8Config(dequantize=True),
    "fp8 tensor": lambda: FineGrainedFP8Config(dequantize=True),
    "packed 4 bits in groups": lambda: CompressedTensorsConfig(dequantize=True),
    "packed 8 bits in rows with zero points": lambda: CompressedTensorsConfig(dequantize=True),
    "int8 tensor with zero point": lambda: CompressedTensorsConfig(dequantize=True),
    "float8 blocks that do not divide": lambda: CompressedTensorsConfig(dequantize=True),
}


@pytest.mark.parametrize("name", STOCK)
def test_transformers_dequantises_to_the_same_model(tmp_path: Path, name: str) -> None:
    write(tmp_path / "model", FORMATS[name], dtype="float32")
    with warnings.catch_warnings(action="ignore"):  # that the file has a quantization_config too
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config=STOCK[name]())
    ours = load_model(fetch(tmp_path / "model").directory, device=CPU).model
    torch.testing.assert_close(logits(ours), logits(stock.float()), rtol=1e-5, atol=1e-6)


def test_zeros_that_gptq_files_have_as_biases_are_left_out(tmp_path: Path, access: Access) -> None:
    expected = write(tmp_path / "model", FORMATS["gptq"])
    bias = f"{UP}.bias"
    changing_tensors(lambda tensors: tensors.update({bias: torch.zeros(48)}))(tmp_path / "model")
    fetched = fetch(tmp_path / "model")
    assert_equal(fetched.directory, expected, torch.bfloat16)
    assert plan(request_for(tmp_path / "model"), access).dequantised == fetched.dequantised
    shutil.rmtree(fetched.directory)
    changing_tensors(lambda tensors: tensors.update({bias: torch.eye(48)[0].clone()}))(tmp_path / "model")
    with pytest.raises(InvalidModel, match=f"the tensor {bias} is no bias of this class and not zero"):
        fetch(tmp_path / "model")
