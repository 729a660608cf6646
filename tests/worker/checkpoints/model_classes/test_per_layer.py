"""The per-layer layout: the checkpoint, the two ways to load it, and the checkpoints that are refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.contract.errors import InvalidModel
from service.contract.options import Unit
from service.models.families.per_layer import AUTO_BASE, CLASS_PREFIX, MODELLING_FILE, MODULE, is_per_layer
from service.models.families.table import FAMILIES, family_of
from tests.support import checkpoints
from tests.support.tiny_models import TINY, inputs_of, logits, tiny_family
from worker.checkpoints.loading import load_model
from worker.checkpoints.model_classes import modeling_taskslim
from worker.checkpoints.model_classes.per_layer import (
    has_per_layer_class,
    layer_widths,
    per_layer_class,
    to_loadable_class,
)
from worker.checkpoints.verification import compare, take_probe
from worker.checkpoints.weights import AUTO_CLASSES
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.selection import best
from worker.slimming.surgery.slicing import cut
from worker.slimming.units.locating import locate

CPU = torch.device("cpu")
# Loads the checkpoint as a user does: with transformers and the directory, without Taskslim on the path.
USER_SCRIPT = """
import sys
import torch, transformers
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for line in sys.stdin.read().splitlines():
    auto, directory = line.split(" ", 1)
    model = getattr(transformers, auto).from_pretrained(directory, trust_remote_code=True).eval()
    with torch.inference_mode():
        outputs = model(**load_file(directory + "/inputs"))
    answer = outputs["logits" if "logits" in outputs else "last_hidden_state"]
    save_file({"answer": answer.contiguous()}, directory + "/" + auto)
assert not any(name.split(".")[0] in ("worker", "service") for name in sys.modules)
"""


WITHOUT_WIDTH = (Unit.layers, Unit.vocabulary)  # units that have none in a layer


def unequal(name: str) -> tuple[PreTrainedModel, Tensor]:
    """The tiny model with half of the units in the first layer and all in the second, and the logits of the cut."""
    torch.set_num_threads(1)
    model = TINY[name]()
    architecture = ARCHITECTURES[model.config.model_type]
    units = [unit.value for unit in FAMILIES[model.config.model_type].units if unit not in WITHOUT_WIDTH]
    draw, kept = torch.Generator().manual_seed(1), {}
    for group in locate(model, architecture, units):
        count = group.count // 2 if group.level else group.count * (group.site.layer + 1) // 2
        kept[group.site] = best(torch.rand(group.count, generator=draw), count, group.rows)
    cut(model, architecture, kept, layout="per_layer")
    return to_loadable_class(model, architecture), logits(model)


def write(directory: Path, name: str) -> PreTrainedModel:
    model, _ = unequal(name)
    checkpoints.save(directory, model)
    return model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path / "model", "llama")
    return tmp_path / "model"


Written = Callable[[str], tuple[Path, PreTrainedModel, Tensor]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Name -> the directory of its per-layer checkpoint, the model, and the logits of the cut; written once."""
    root = tmp_path_factory.mktemp("per-layer")

    @cache
    def of(name: str) -> tuple[Path, PreTrainedModel, Tensor]:
        model, expected = unequal(name)
        checkpoints.save(root / name, model)
        return root / name, model, expected

    return of


@pytest.mark.parametrize("name", TINY)
def test_the_per_layer_class_gives_the_logits_of_the_cut_model(written: Written, name: str) -> None:
    directory, model, expected = written(name)
    assert has_per_layer_class(model)
    assert torch.equal(logits(model), expected)
    verified = compare(directory, take_probe(load_model(directory, device=CPU), {}, inputs_of(model)))
    assert verified.max_abs_logit_difference == 0
    assert verified.loader == type(model).__name__


@pytest.mark.slow
def test_transformers_loads_every_family_from_its_directory_alone(written: Written, tmp_path: Path) -> None:
    expected: dict[tuple[str, str], Tensor] = {}
    lines = []
    for name in TINY:
        directory, model, expected[name, tiny_family(name).auto_class] = written(name)
        copytree(directory, tmp_path / name)
        save_file(inputs_of(model), tmp_path / name / "inputs")
        autos = json.loads((tmp_path / name / "config.json").read_text())["auto_map"]
        bases = [] if Unit.experts in tiny_family(name).units else [AUTO_BASE]
        assert list(autos) == [*bases, tiny_family(name).auto_class]
        expected |= {(name, base): states_of(model) for base in bases}
        lines += [f"{auto} {tmp_path / name}" for auto in autos]
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    run = [sys.executable, "-P", "-c", USER_SCRIPT]
    subprocess.run(
        run, input="\n".join(lines), text=True, cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    for name, auto in expected:
        found = load_file(tmp_path / name / auto)["answer"]
        # Products of experts are rounded otherwise where a matrix lies otherwise in memory.
        torch.testing.assert_close(found, expected[name, auto], rtol=0, atol=1e-6, msg=name)


def states_of(model: PreTrainedModel) -> Tensor:
    """What the head of a model is given: the last states of the decoder, or of the encoder."""
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            states: Tensor = model(**inputs_of(model), output_hidden_states=True).decoder_hidden_states[-1]
        else:
            states = model.base_model(**inputs_of(model)).last_hidden_state
    return states


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_a_checkpoint_of_an_older_version_names_no_class_without_a_head(
    written: Written, tmp_path: Path, name: str
) -> None:
    directory, _, expected = written(name)
    copytree(directory, tmp_path / "model")
    autos = json.loads((directory / "config.json").read_text())["auto_map"]
    checkpoints.change_config(tmp_path / "model", auto_map={auto: autos[auto] for auto in autos if auto != AUTO_BASE})
    again = load_model(tmp_path / "model", device=CPU).model
    assert torch.equal(logits(again), expected)
    rewritten = to_loadable_class(again, ARCHITECTURES[name])
    rewritten.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["auto_map"] == autos


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "phi3", "t5", "bart", "m2m_100", "t5gemma"])
def test_generation_with_a_cache_of_unequal_groups_equals_that_without(name: str) -> None:
    model, _ = unequal(name)
    told: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    inputs = torch.arange(4, 24).view(2, 10)
    generate: Any = model.generate
    assert torch.equal(generate(inputs, **told), generate(inputs, use_cache=False, **told))


@pytest.mark.parametrize("name", ["m2m_100", "marian"])
def test_sinusoids_keep_their_dtype(name: str) -> None:
    model = TINY[name]()
    nn.Module.to(model, torch.bfloat16)
    architecture = ARCHITECTURES[model.config.model_type]
    kept = {group.site: torch.arange(16 + 8 * group.site.layer) for group in locate(model, architecture, ["ffn"])}
    cut(model, architecture, kept, layout="per_layer")
    assert torch.equal(logits(to_loadable_class(model, architecture)), logits(model))


@pytest.mark.parametrize("name", ["llama", "phi3", "t5"])
def test_a_per_layer_model_can_be_cut_again(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    model = load_model(tmp_path, device=CPU).model
    architecture = ARCHITECTURES[model.config.model_type]
    groups = locate(model, architecture, ["ffn"])
    kept = {group.site: torch.arange(group.count - 4 * (group.site.layer + 1)) for group in groups}
    cut(model, architecture, kept, layout="per_layer")
    again = to_loadable_class(model, architecture)
    assert torch.equal(logits(again), logits(model))
    assert layer_widths(again, architecture) == again.config.layer_widths


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2"])
def test_layers_of_equal_widths_stay_in_the_stock_class(tmp_path: Path, name: str) -> None:
    model = TINY[name]()
    architecture = ARCHITECTURES[model.config.model_type]
    kept = {group.site: torch.arange(24) for group in locate(model, architecture, ["ffn"])}
    cut(model, architecture, kept, layout="per_layer")
    stock = to_loadable_class(model, architecture)
    assert type(stock) is type(TINY[name]())
    stock.save_pretrained(tmp_path)
    assert torch.equal(logits(type(stock).from_pretrained(tmp_path)), logits(model))
    assert not (tmp_path / MODELLING_FILE).exists()


@pytest.mark.parametrize("name", TINY)
def test_modelling_file_finds_the_loader_and_the_layers_of_every_family(name: str) -> None:
    model, family = TINY[name](), tiny_family(name)
    architecture = ARCHITECTURES[family.model_type]
    stacks = {stack.name: stack.layers for stack in architecture.stacks}
    assert modeling_taskslim._stacks(model, list(stacks)) == stacks
    assert per_layer_class(family.model_class)._auto_class == family.auto_class


def test_the_stock_class_refuses_a_per_layer_checkpoint(directory: Path) -> None:
    with pytest.raises(RuntimeError, match="mismatch"):
        AUTO_CLASSES["causal"].from_pretrained(directory, trust_remote_code=False)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_another_modelling_file_is_refused(directory: Path) -> None:
    load_model(directory, device=CPU)
    (directory / MODELLING_FILE).write_text((directory / MODELLING_FILE).read_text() + "\n")
    with pytest.raises(InvalidModel, match="auto_map"):
        load_model(directory, device=CPU)


def test_a_directory_without_the_modelling_file_is_refused(directory: Path) -> None:
    (directory / MODELLING_FILE).unlink()
    with pytest.raises(InvalidModel, match="auto_map"):
        load_model(directory, device=CPU)


WRONG_CONFIGS: dict[str, dict[str, Any]] = {
    "another class": {"auto_map": {"AutoModelForCausalLM": "modeling_taskslim.Other"}},
    "more code": {
        "auto_map": {"AutoModelForCausalLM": "modeling_taskslim.PerLayerLlamaForCausalLM", "AutoConfig": "x.Y"}
    },
    "another class without a head": {
        "auto_map": {
            "AutoModel": "modeling_taskslim.PerLayerMistralModel",
            "AutoModelForCausalLM": "modeling_taskslim.PerLayerLlamaForCausalLM",
        },
    },
    "code beside the class without a head": {
        "auto_map": {
            "AutoModel": "x.PerLayerLlamaModel",
            "AutoModelForCausalLM": "modeling_taskslim.PerLayerLlamaForCausalLM",
        },
    },
    "an unknown class": {
        "architectures": ["PerLayerMamba"],
        "auto_map": {"AutoModelForCausalLM": "modeling_taskslim.PerLayerMamba"},
    },
    "another family": {"model_type": "mistral"},
    "no widths": {"layer_widths": None},
    "no numbers": {"layer_widths": {"decoder": [{"intermediate_size": "wide"}] * 2}},
    "no width": {"layer_widths": {"decoder": [{"intermediate_size": 0}] * 2}},
    "another stack": {"layer_widths": {"encoder": []}},
    "too few layers": {"layer_widths": {"decoder": [{}]}},
    "other shapes": {"layer_widths": {"decoder": [{"intermediate_size": 8}] * 2}},
}


@pytest.mark.parametrize("wrong", WRONG_CONFIGS)
def test_a_wrong_per_layer_config_is_refused(directory: Path, wrong: str) -> None:
    checkpoints.change_config(directory, **WRONG_CONFIGS[wrong])
    with pytest.raises(InvalidModel):
        load_model(directory, device=CPU)


def test_the_service_recognises_the_layout_that_the_worker_writes(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    assert is_per_layer(config)
    assert modeling_taskslim.__name__.endswith(f".{MODULE}")
    assert modeling_taskslim.PREFIX == CLASS_PREFIX
    assert family_of(config, "file:///model").model_type == "llama"
    for wrong in ("another class", "more code", "code beside the class without a head", "no widths"):
        assert not is_per_layer(config | WRONG_CONFIGS[wrong])
