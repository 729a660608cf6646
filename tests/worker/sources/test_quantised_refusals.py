"""Quantised checkpoints that cannot be dequantised are refused by name, by the plan too where headers tell."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.contract.errors import InvalidModel
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.checkpoints import change_config
from tests.support.planning import request_for
from tests.support.quantised_models.formats import FORMATS
from tests.support.quantised_models.stored import changing_tensors, fetch, write


def setting(**fields: Any) -> Callable[[Path], None]:
    """Changes fields of `quantization_config`."""

    def edit(directory: Path) -> None:
        settings = json.loads((directory / "config.json").read_text())["quantization_config"]
        change_config(directory, quantization_config=settings | fields)

    return edit


def edit_groups(directory: Path, change: Callable[[Any], object]) -> None:
    """Changes `config_groups` of compressed-tensors."""
    settings = json.loads((directory / "config.json").read_text())["quantization_config"]
    change(settings["config_groups"])
    change_config(directory, quantization_config=settings)


def weights_setting(**fields: Any) -> Callable[[Path], None]:
    """Changes fields of the scheme of the weights."""
    return lambda path: edit_groups(path, lambda groups: groups["group_0"]["weights"].update(fields))


UP = "model.layers.0.mlp.up_proj"
STATE = f"{UP}.weight.quant_state.bitsandbytes__nf4"
# What is wrong -> format, change of its checkpoint, what the message says.
WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "unknown method": ("fp8 tensor", setting(quant_method="mxfp4"), "the method 'mxfp4' is not dequantised"),
    "no method": ("fp8 tensor", setting(quant_method=None), "the method 'None' is not dequantised"),
    "no object": ("fp8 tensor", lambda path: change_config(path, quantization_config=[1]), "is no object"),
    "no scale": (
        "fp8 blocks",
        changing_tensors(lambda tensors: tensors.pop(f"{UP}.weight_scale_inv")),
        rf"the tensor {UP}.weight \(F8_E4M3\) has no {UP}.weight_scale or weight_scale_inv",
    ),
    "two scales": (
        "fp8 blocks",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.weight_scale": torch.ones(())})),
        f"the tensor {UP}.weight .* has both weight_scale and weight_scale_inv",
    ),
    "scale of nothing": (
        "fp8 blocks",
        changing_tensors(lambda tensors: tensors.update({"model.norm.weight_scale_inv": torch.ones(())})),
        r"the tensor model.norm.weight_scale_inv \(F32\) belongs to no weight of the format FP8",
    ),
    "activation scale where they are dynamic": (
        "fp8 tensor",
        setting(activation_scheme="dynamic"),
        r"activation_scale \(F32\) belongs to no weight",
    ),
    "other block size": (
        "fp8 blocks",
        setting(weight_block_size=[16, 8]),
        r"the tensors of model.layers.0.mlp.down_proj do not fit each other \(its weight_scale_inv has the shape",
    ),
    "no block size": ("fp8 blocks", setting(weight_block_size=None), "do not fit each other"),
    "block size of one side": ("fp8 blocks", setting(weight_block_size=[16]), r"weight_block_size \[16\]"),
    "another float8": ("fp8 tensor", setting(fmt="e5m2"), "fmt 'e5m2' is not dequantised"),
    "a weight in another float8": (
        "fp8 tensor",
        changing_tensors(
            lambda tensors: tensors.update({f"{UP}.weight": tensors[f"{UP}.weight"].to(torch.float8_e5m2)})
        ),
        rf"the tensor {UP}.weight \(F8_E5M2\) belongs to no weight",
    ),
    "nothing quantised": (
        "fp8 tensor",
        lambda path: write_plain(path, quantization_config={"quant_method": "fp8"}),
        "none of them is: remove its quantization_config",
    ),
    "a format that is packed otherwise": (
        "packed 4 bits in groups",
        setting(format="marlin-24"),
        "format 'marlin-24' is not dequantised",
    ),
    "sparse": ("int8 in rows", setting(sparsity_config={"format": "sparse-24-bitmask"}), "its sparsity_config"),
    "rotated": ("int8 in rows", setting(transform_config={"config_groups": {"R1": {}}}), "its transform_config"),
    "no groups": ("int8 in rows", setting(config_groups=["W8A8"]), "its config_groups"),
    "3 bits": ("packed 4 bits in groups", weights_setting(num_bits=3), "num_bits 3 is not dequantised"),
    "reordered": ("packed 4 bits in groups", weights_setting(actorder="group"), "actorder 'group'"),
    "dynamic": ("int8 in rows", weights_setting(dynamic=True), "its dynamic True"),
    "tensor groups": ("int8 in rows", weights_setting(strategy="tensor_group"), "its strategy 'tensor_group'"),
    "other groups": ("packed 4 bits in groups", weights_setting(group_size=8), "its scales are for 24 inputs"),
    "other bits": ("packed 4 bits in groups", weights_setting(num_bits=8), "do not fit each other"),
    "other rows": ("int8 in rows", weights_setting(strategy="tensor"), "its weight_scale has the shape"),
    "zero points that are not there": (
        "packed 4 bits in groups",
        weights_setting(symmetric=False),
        "it has no weight_zero_point, and symmetric is False",
    ),
    "zero points too many": (
        "packed 4 bits with zero points",
        weights_setting(symmetric=True),
        "it has a weight_zero_point, and symmetric is True",
    ),
    "no shape": (
        "packed 4 bits in groups",
        changing_tensors(lambda tensors: tensors.pop(f"{UP}.weight_shape")),
        rf"{UP}.weight_packed \(I32\) has no {UP}.weight_shape",
    ),
    "integers in place of float8": (
        "float8 in rows",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.weight": tensors[f"{UP}.weight"].to(torch.int8)})),
        "its weight is I8, and its scheme says float",
    ),
    "a module of no group": (
        "two schemes",
        lambda path: edit_groups(path, lambda groups: groups["group_1"].update(targets=["re:.*q_proj"])),
        "self_attn.k_proj.weight",
    ),
    "an expression that takes long": (
        "two schemes",
        lambda path: edit_groups(path, lambda groups: groups["group_1"].update(targets=["re:(a+)+$"])),
        "its target 're:",
    ),
    "no bits": ("nf4", setting(load_in_4bit=False), "neither 8 nor 4 bits"),
    "another table": ("nf4", setting(bnb_4bit_quant_type="fp4"), "quant_state.bitsandbytes__fp4"),
    "another storage": ("nf4", setting(bnb_4bit_quant_storage="bfloat16"), "bnb_4bit_quant_storage 'bfloat16'"),
    "no SCB": (
        "llm.int8",
        changing_tensors(lambda tensors: tensors.pop(f"{UP}.SCB")),
        rf"the tensor {UP}.weight \(I8\) has no {UP}.SCB",
    ),
    "half nested": (
        "nf4 nested",
        changing_tensors(lambda tensors: tensors.pop(f"{UP}.weight.nested_absmax")),
        "its weight.absmax is U8, and it has 1 nested tensors",
    ),
    "other sides": ("nf4", lambda path: change_config(path, hidden_size=40), "no multiple of the hidden size 40"),
    "int8 without settings": (
        "llm.int8",
        lambda path: change_config(path, quantization_config=None),
        r"\(the tensor .*SCB \(F32\)\), and config.json has no quantization_config",
    ),
    "marlin": ("gptq", setting(is_marlin_format=True), "is_marlin_format True"),
    "marlin by name": ("gptq", setting(checkpoint_format="marlin"), "checkpoint_format 'marlin'"),
    "3 bits of gptq": ("gptq", setting(bits=3), "bits 3 is not dequantised"),
    "no zeros": (
        "gptq",
        changing_tensors(lambda tensors: tensors.pop(f"{UP}.qzeros")),
        f"qweight .* has no {UP}.qzeros",
    ),
    "fewer groups": (
        "gptq",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.scales": tensors[f"{UP}.scales"][:1].clone()})),
        r"its scales has the shape \(1, 48\), where \(2, 48\) belongs",
    ),
    "another index": (
        "gptq",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.g_idx": torch.zeros(16).int()})),
        r"its g_idx has the shape \(16,\), where \(32,\) belongs",
    ),
    "gptq without settings": (
        "gptq",
        lambda path: change_config(path, quantization_config=None),
        "and config.json has no quantization_config that says how",
    ),
    "another awq": ("awq", setting(version="gemv"), "its version 'gemv' is not dequantised"),
    "awq as gptq": ("awq", setting(quant_method="gptq"), "do not fit each other"),
    "gptq as awq": ("gptq", setting(quant_method="awq"), "do not fit each other"),
    "blocks without settings": (
        "fp8 blocks",
        lambda path: change_config(path, quantization_config=None),
        "do not fit each other",
    ),
    "integers without settings": (
        "fp8 without a method",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.qweight": torch.ones(2).int()})),
        r"qweight \(I32\)\), and config.json has no quantization_config that says how",
    ),
}


def as_bytes(content: object) -> Tensor:
    text = content if isinstance(content, str) else json.dumps(content)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def state(**fields: Any) -> Callable[[Path], None]:
    """Changes fields of the state that bitsandbytes writes of a weight."""
    return changing_tensors(
        lambda tensors: tensors.update({STATE: as_bytes(json.loads(bytes(tensors[STATE].tolist())) | fields)})
    )


# What is wrong with the values alone, which a plan does not read.
WRONG_VALUES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a layout of GPUs": (
        "llm.int8",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.weight_format": torch.tensor(1, dtype=torch.uint8)})),
        "weight_format is that of a GPU",
    ),
    "another shape": (
        "packed 8 bits in rows with zero points",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.weight_shape": torch.tensor([48, 30])})),
        r"they have the shape \(48, 30\), where \(48, 32\) belongs",
    ),
    "fewer rows": (
        "packed 8 bits in rows with zero points",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.weight_shape": torch.tensor([40, 32])})),
        r"their weight_shape is \(40, 32\)",
    ),
    "a group that is not there": (
        "gptq",
        changing_tensors(lambda tensors: tensors.update({f"{UP}.g_idx": torch.full((32,), 2).int()})),
        "their g_idx names other groups than 0 to 1",
    ),
    "no blocks": ("nf4 nested", state(blocksize=0), "the blocksize in their quant_state is 0"),
    "other blocks": ("nf4 nested", state(blocksize=128), "24 blocks of 128 do not make 1536 values"),
    "no nested blocks": (
        "nf4 nested",
        state(nested_blocksize=None),
        "the nested_blocksize in their quant_state is None",
    ),
    "fewer values": ("nf4 nested", state(shape=[32, 32]), r"the shape in their quant_state is \[32, 32\]"),
    "other sides": ("nf4 nested", state(shape=[64, 24]), r"they have the shape \(64, 24\)"),
    "no state": (
        "nf4",
        changing_tensors(lambda tensors: tensors.update({STATE: as_bytes("{")})),
        "their quant_state is no object in JSON",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_VALUES)
def test_values_that_do_not_fit_are_refused_by_name(tmp_path: Path, wrong: str) -> None:
    name, change, message = WRONG_VALUES[wrong]
    write(tmp_path / "model", FORMATS[name])
    change(tmp_path / "model")
    with pytest.raises(InvalidModel, match=f"the values of {UP}.weight cannot be dequantised .*{message}") as refused:
        fetch(tmp_path / "model")
    assert refused.value.param == "model.uri"


def write_plain(directory: Path, **fields: Any) -> None:
    """Write a checkpoint without quantised weights over the one of a directory."""
    checkpoints.write(directory, "llama")
    change_config(directory, **fields)


@pytest.mark.parametrize("wrong", WRONG)
def test_plan_and_worker_refuse_what_cannot_be_dequantised(tmp_path: Path, access: Access, wrong: str) -> None:
    name, change, message = WRONG[wrong]
    write(tmp_path / "model", FORMATS[name])
    change(tmp_path / "model")
    with pytest.raises(InvalidModel, match=message) as refused:
        fetch(tmp_path / "model")
    with pytest.raises(InvalidModel, match=message) as planned:
        plan(request_for(tmp_path / "model"), access)
    assert refused.value.param == planned.value.param == "model.uri"
    assert "quantised" in refused.value.message
    assert re.search("give the unquantised checkpoint|remove its quantization_config", refused.value.message)
