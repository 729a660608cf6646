"""Adapters are merged exactly, every tensor of them, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from service.contract.errors import InvalidModel, VerificationFailed
from service.contract.request.task import ModelSource
from service.sources.access import Access
from service.sources.model_directory import ModelDirectory
from tests.support import checkpoints
from tests.support.checkpoints import change_json
from tests.support.tiny_models import TINY, VOCABULARY, WITH_TOKEN_HEAD, causal, logits, tiny_family
from worker.checkpoints.adapters import merging as adapters
from worker.checkpoints.loading import load_model
from worker.checkpoints.saving import save_model

pytestmark = pytest.mark.filterwarnings("ignore:(Model has|Setting) `")  # PEFT, while the tests train
CPU = torch.device("cpu")
LORA: dict[str, Any] = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_added_to_the_weights_and_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoints.write(tmp_path / "model", dtype=dtype)
    base = load_file(tmp_path / "model/model.safetensors")
    adapter = checkpoints.write_adapter(tmp_path / "adapter")
    merged = load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter").model.state_dict()
    for name, weight in base.items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_{{}}.weight"
        if key.format("A") in adapter:
            delta = adapter[key.format("B")] @ adapter[key.format("A")] * (8 / 2)
            weight = (weight.float() + delta).to(dtype)
            assert not torch.equal(weight, base[name])
        assert torch.equal(merged[name], weight), name


def test_a_merged_model_is_saved_as_a_stock_checkpoint(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model")
    checkpoints.write_adapter(tmp_path / "adapter")
    loaded = load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    save_model(loaded, tmp_path / "merged")
    again = load_model(tmp_path / "merged", device=CPU)
    assert torch.equal(logits(again.model), logits(loaded.model))
    assert type(again.model) is type(TINY["llama"]())


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "gpt2")
    checkpoints.write_adapter(tmp_path / "adapter")
    with pytest.raises(InvalidModel, match="does not fit the model") as caught:
        load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    assert caught.value.param == "model.adapter_uri"


# --- tied weights ----------------------------------------------------------------------------------------------------


def tied_model(directory: Path) -> None:
    causal("llama", tie_word_embeddings=True).save_pretrained(directory)
    checkpoints.tokenizer().save_pretrained(directory)


def trained(directory: Path, model: PreTrainedModel, **options: Any) -> None:
    """Save an adapter of the model whose every tensor is random."""
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(**(LORA | options)))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(str(directory))


TIED: dict[str, dict[str, Any]] = {
    "lora on the head": {"target_modules": ["lm_head"]},
    "lora on the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embedding saved": {"modules_to_save": ["embed_tokens"]},
    "both saved": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "tied while training": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "tokens": {"trainable_token_indices": [5, 9]},
    "neither": {},
    "rank-stabilised": {"use_rslora": True},
    "dora": {"use_dora": True},
}


@pytest.mark.parametrize("case", TIED)
def test_a_merged_model_equals_the_model_with_its_adapter(tmp_path: Path, case: str) -> None:
    tied_model(tmp_path / "model")
    trained(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(tmp_path / "model"), **TIED[case])
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    adapted: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    expected = logits(adapted)
    loaded = load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    stays_tied = case in ("tied while training", "tokens", "neither", "rank-stabilised", "dora")
    save_model(loaded, tmp_path / "merged")
    assert json.loads((tmp_path / "merged/config.json").read_text())["tie_word_embeddings"] is stays_tied
    assert ("lm_head.weight" in load_file(tmp_path / "merged/model.safetensors")) is not stays_tied
    assert torch.equal(logits(load_model(tmp_path / "merged", device=CPU).model), logits(loaded.model))


# --- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in TINY if tiny_family(name).pretrained and tiny_family(name).kind == "classifier"]
)
def test_an_adapter_brings_the_head_to_an_encoder_without_one(tmp_path: Path, name: str) -> None:
    encoder: Any = TINY[name]().base_model
    encoder.config.id2label = {0: "a", 1: "b"}
    encoder.save_pretrained(tmp_path / "model")
    checkpoints.tokenizer("classifier").save_pretrained(tmp_path / "model")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=3)
    modules = {
        "target_modules": ["query", "q_lin", "query_proj", "Wqkv"],
        "modules_to_save": ["classifier", "pre_classifier", "pooler", "head"],
    }
    trained(tmp_path / "adapter", base, task_type="SEQ_CLS", **modules)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=3)
    adapted: Any = PeftModel.from_pretrained(again, str(tmp_path / "adapter")).eval()
    expected = logits(adapted)
    loaded = load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded.model), expected)
    assert loaded.model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert loaded.family.kind == "classifier"
    assert load_model(tmp_path / "model", device=CPU).family.kind == "encoder"


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2"])
def test_an_adapter_brings_a_head_for_tokens_to_an_encoder(tmp_path: Path, access: Access, name: str) -> None:
    encoder: Any = WITH_TOKEN_HEAD[name]().base_model
    encoder.save_pretrained(tmp_path / "model")
    checkpoints.tokenizer("token_classifier").save_pretrained(tmp_path / "model")
    base = AutoModelForTokenClassification.from_pretrained(tmp_path / "model", num_labels=3)
    trained(tmp_path / "adapter", base, task_type="TOKEN_CLS", target_modules=["query", "q_lin", "query_proj"])
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "model", num_labels=3)
    adapted: Any = PeftModel.from_pretrained(again, str(tmp_path / "adapter")).eval()
    expected = logits(adapted)
    loaded = load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    assert loaded.family.kind == "token_classifier"
    torch.testing.assert_close(logits(loaded.model), expected)
    source = ModelSource(uri=(tmp_path / "model").as_uri(), adapter_uri=(tmp_path / "adapter").as_uri())
    assert ModelDirectory.of(source, access).family == loaded.family


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_an_adapter_brings_a_classification_head_to_a_decoder(tmp_path: Path, name: str) -> None:
    checkpoints.write(tmp_path / "model", name)
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=3)
    trained(tmp_path / "adapter", base, task_type="SEQ_CLS", target_modules=["q_proj"])
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=3)
    adapted: Any = PeftModel.from_pretrained(again, str(tmp_path / "adapter")).eval()
    expected = logits(adapted)
    loaded = load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    assert loaded.family.kind == "decoder_classifier"
    torch.testing.assert_close(logits(loaded.model), expected)
    assert loaded.model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    change_json(tmp_path / "model/config.json", pad_token_id=None)
    with pytest.raises(InvalidModel, match="no pad_token_id"):
        load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")


def test_an_adapter_brings_the_head_to_a_pretrained_encoder(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "bert")
    trained(tmp_path / "adapter", TINY["bert"](), task_type="SEQ_CLS", target_modules=["query"])
    tensors = load_file(tmp_path / "model/model.safetensors")
    pretrained = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    pretrained["cls.predictions.bias"] = torch.zeros(VOCABULARY)
    save_file(pretrained, tmp_path / "model/model.safetensors", {"format": "pt"})
    change_json(tmp_path / "model/config.json", architectures=["BertForMaskedLM"])
    load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    trained(tmp_path / "headless", TINY["bert"](), target_modules=["query"])
    with pytest.raises(InvalidModel, match=r"lacks: classifier\.bias"):
        load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "headless")


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(tmp_path: Path, change: Any, match: str) -> None:
    """Change the tensors of an adapter, and assert the message with which it is refused."""
    checkpoints.write(tmp_path / "model")
    tensors = checkpoints.write_adapter(tmp_path / "adapter")
    save_file(change(tensors), tmp_path / "adapter/adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidModel, match=match) as caught:
        load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    assert caught.value.param == "model.adapter_uri"


def test_an_adapter_whose_names_match_no_module_is_refused(tmp_path: Path) -> None:
    def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace("model.layers", "model.language_model.layers"): value for name, value in tensors.items()}

    refused(tmp_path, renamed, r"model.language_model.layers.0.mlp.down_proj.lora_A.weight belongs to no module")


def test_an_adapter_with_a_head_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    head = {"base_model.model.classifier.weight": torch.ones(2, 32)}
    refused(tmp_path, lambda tensors: tensors | head, "classifier.weight belongs to no module of LlamaForCausalLM")


def test_an_adapter_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, lambda tensors: dict(sorted(tensors.items())[2:]), "lacks .*layers.0.mlp.down_proj.lora_A")


def test_an_adapter_of_numbers_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, lambda tensors: {name: value * float("nan") for name, value in tensors.items()}, "not finite")


def test_a_merge_that_changes_the_logits_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tied_model(tmp_path / "model")
    trained(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(tmp_path / "model"), target_modules=["lm_head"])
    monkeypatch.setattr(adapters, "untie", lambda model: None)
    with pytest.raises(VerificationFailed, match="differs from the model with its adapter"):
        load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
