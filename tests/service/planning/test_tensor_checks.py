"""A plan and the worker refuse the same checkpoints and adapters, by the names of their tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from service.contract.errors import InvalidModel
from service.models.families.other_heads import DECODER_CLASSIFIERS, TOKEN_CLASSIFIERS
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints, drawn_models
from tests.support.checkpoints import change_config, change_json
from tests.support.drawn_models import DrawnModel
from tests.support.pipeline_jobs import Deployment
from tests.support.planning import request_for
from tests.support.tiny_models import TINY, WITH_TOKEN_HEAD, bart, family_of_model
from worker.checkpoints.loading import count_parameters, load_model

CPU = torch.device("cpu")
Tensors = dict[str, Tensor]


@pytest.mark.parametrize("name", TINY)
def test_the_table_names_the_parameters_of_the_stock_class(name: str) -> None:
    model = TINY[name]()
    row = family_of_model(model).tensors
    head = {"gpt_neox": "embed_out.weight"}.get(name, "lm_head.weight")  # as its files call it
    unsaved = {"final_logits_bias", *(model._keys_to_ignore_on_save or ())}
    own = {path.replace("lm_head.weight", head) for path in model.state_dict()} - unsaved
    assert row.names(model.config.to_dict(), dict.fromkeys(row.layers, 2)) == own


@pytest.mark.parametrize("model_type", DECODER_CLASSIFIERS)
def test_the_table_names_the_parameters_of_a_decoder_with_a_classification_head(model_type: str) -> None:
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(TINY[model_type]().config)
    assert type(model).__name__ == DECODER_CLASSIFIERS[model_type]
    row = family_of_model(model).tensors
    assert row.names(model.config.to_dict(), dict.fromkeys(row.layers, 2)) == {*model.state_dict()}


@pytest.mark.parametrize("model_type", WITH_TOKEN_HEAD)
def test_the_table_names_the_parameters_of_an_encoder_with_a_head_for_tokens(model_type: str) -> None:
    model = WITH_TOKEN_HEAD[model_type]()
    assert type(model).__name__ == TOKEN_CLASSIFIERS[model_type]
    row = family_of_model(model).tensors
    assert row.names(model.config.to_dict(), dict.fromkeys(row.layers, 2)) == {*model.state_dict()}


def test_every_family_with_a_head_for_tokens_has_a_tiny_model() -> None:
    assert WITH_TOKEN_HEAD.keys() == TOKEN_CLASSIFIERS.keys()


def change(path: Path, changed: Callable[[Tensors], Tensors]) -> None:
    save_file(changed(load_file(path)), path, {"format": "pt"})


CHANGES: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "unknown": ("llama", lambda tensors: tensors | {"score.weight": torch.ones(2, 32)}),
    "bias": ("mistral", lambda tensors: tensors | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
    "prefix": ("llama", lambda tensors: {f"text.{name}": value for name, value in tensors.items()}),
    "no head": ("llama", lambda tensors: {name: value for name, value in tensors.items() if "lm_head" not in name}),
    "no pooler": ("bert", lambda tensors: {name: value for name, value in tensors.items() if "pooler" not in name}),
    "half a layer": ("gpt2", lambda tensors: dict(sorted(tensors.items())[3:])),
    "quantised": ("llama", lambda tensors: tensors | {"model.layers.0.mlp.up_proj.qweight": torch.ones(2).int()}),
    "float8": (
        "llama",
        lambda tensors: {name: value.to(torch.float8_e4m3fn) for name, value in tensors.items()},
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_plan_refuses_the_tensors_that_the_worker_refuses(case: str, tmp_path: Path, access: Access) -> None:
    name, changed = CHANGES[case]
    checkpoints.write(tmp_path, name)
    change(tmp_path / "model.safetensors", changed)
    with pytest.raises(InvalidModel) as planned:
        plan(request_for(tmp_path), access)
    with pytest.raises(InvalidModel) as refused:
        load_model(tmp_path, device=CPU)
    assert planned.value.param == refused.value.param == "model.uri"
    assert ("quantised" in planned.value.message) is ("quantised" in refused.value.message)


ADAPTERS: dict[str, Callable[[Tensors], Tensors]] = {
    "other names": lambda tensors: {name.replace("layers", "blocks"): value for name, value in tensors.items()},
    "a head": lambda tensors: tensors | {"base_model.model.classifier.weight": torch.ones(2, 32)},
    "other shapes": lambda tensors: {name: value.repeat(3, 3) for name, value in tensors.items()},
}
UNMERGEABLE: dict[str, dict[str, Any]] = {
    "lora_bias": {"lora_bias": True},
    "alora_invocation_tokens": {"alora_invocation_tokens": [3, 4], "task_type": "CAUSAL_LM"},
    "layer_replication": {"layer_replication": [[0, 2], [1, 2]]},
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_a_plan_refuses_the_adapters_that_the_worker_refuses(case: str, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path / "model")
    checkpoints.write_adapter(tmp_path / "adapter")
    change(tmp_path / "adapter/adapter_model.safetensors", ADAPTERS[case])
    model = {"uri": (tmp_path / "model").as_uri(), "adapter_uri": (tmp_path / "adapter").as_uri()}
    with pytest.raises(InvalidModel) as planned:
        plan(request_for(tmp_path / "model", model=model), access)
    with pytest.raises(InvalidModel) as refused:
        load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    assert planned.value.param == refused.value.param == "model.adapter_uri"


@pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning")  # while the test makes the adapter
@pytest.mark.parametrize("option", UNMERGEABLE)
def test_an_adapter_that_cannot_be_merged_is_refused_by_its_option(option: str, tmp_path: Path, access: Access) -> None:
    deployment = Deployment(tmp_path)
    model = deployment.request().model.model_dump() | {"adapter_uri": (tmp_path / "adapter").as_uri()}
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **UNMERGEABLE[option])
    get_peft_model(TINY["llama"](), config).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(InvalidModel, match=option) as planned:
        plan(deployment.request(model=model), access)
    with pytest.raises(InvalidModel, match=option) as refused:
        deployment.run(deployment.request(model=model))
    assert planned.value.param == refused.value.param == "model.adapter_uri"


def test_a_plan_knows_the_head_of_gpt_neox_by_the_name_of_its_class(tmp_path: Path, access: Access) -> None:
    drawn_models.write(DrawnModel("gpt_neox", adapter={"target_modules": ["lm_head"]}), tmp_path)
    model = {"uri": (tmp_path / "model").as_uri(), "adapter_uri": (tmp_path / "adapter").as_uri()}
    request = request_for(tmp_path / "model", model=model)
    assert plan(request, access).family == "gpt_neox"
    load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    change(
        tmp_path / "adapter/adapter_model.safetensors",
        lambda tensors: {name.replace("lm_head", "embed_out"): value for name, value in tensors.items()},
    )
    change_json(tmp_path / "adapter/adapter_config.json", target_modules=["embed_out"])
    with pytest.raises(InvalidModel) as planned:
        plan(request, access)
    with pytest.raises(InvalidModel) as refused:
        load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    assert planned.value.param == refused.value.param == "model.adapter_uri"


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt", "t5", "bart", "marian"])
def test_a_plan_counts_a_head_of_its_own(name: str, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, name)
    change(tmp_path / "model.safetensors", lambda tensors: tensors | {"lm_head.weight": torch.randn(128, 32)})
    change_config(tmp_path, tie_word_embeddings=True)
    planned = plan(request_for(tmp_path), access).parameters.dense
    assert planned == count_parameters(load_model(tmp_path, device=CPU).model)


@pytest.mark.parametrize("name", ["llama", "t5", "bart", "marian"])
def test_a_plan_counts_what_an_adapter_of_the_head_unties(name: str, tmp_path: Path, access: Access) -> None:
    drawn_models.write(DrawnModel(name, flag=True, head="shared", adapter={"target_modules": ["lm_head"]}), tmp_path)
    adapter = tmp_path / "adapter"
    model = {"uri": (tmp_path / "model").as_uri(), "adapter_uri": adapter.as_uri()}
    planned = plan(request_for(tmp_path / "model", model=model), access).parameters.dense
    assert planned == count_parameters(load_model(tmp_path / "model", device=CPU, adapter=adapter).model)


@pytest.mark.parametrize("own_head", [False, True])
def test_a_plan_counts_the_two_vocabularies_of_a_marian(own_head: bool, tmp_path: Path, access: Access) -> None:
    model = bart("marian", share_encoder_decoder_embeddings=False, decoder_vocab_size=96)
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(96, 32))
    model.save_pretrained(tmp_path)
    checkpoints.tokenizer("encoder_decoder").save_pretrained(tmp_path)
    planned = plan(request_for(tmp_path), access).parameters.dense
    assert planned == count_parameters(load_model(tmp_path, device=CPU).model) == count_parameters(model)


def test_a_plan_counts_a_head_that_repeats_the_embedding_once(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "gemma2")
    alone = plan(request_for(tmp_path), access).parameters.dense
    change(
        tmp_path / "model.safetensors",
        lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
    )
    assert plan(request_for(tmp_path, 0.4), access).parameters.dense == alone


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "bert"])
def test_a_plan_refuses_heads_that_do_not_divide_the_hidden_size(name: str, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, name)
    change_config(tmp_path, **dict.fromkeys(("n_head", "num_attention_heads", "num_key_value_heads"), 3))
    with pytest.raises(InvalidModel, match="cannot have 3 heads"):
        plan(request_for(tmp_path), access)
