"""Every tensor of a checkpoint is used by the class that loads it, or the checkpoint is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BertForMaskedLM,
    BertForQuestionAnswering,
    Gemma3Config,
    PreTrainedModel,
    Qwen2ForTokenClassification,
)

from service.contract.errors import InvalidModel, UnsupportedFamily
from service.models.families.source_config import TEXT_PARTS
from service.models.tensors.gemma4 import LAYER_SCALAR
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.checkpoints import change_config
from tests.support.pipeline_jobs import Deployment
from tests.support.planning import request_for
from tests.support.tiny_models import GEMMA4, LINEAR, LLAMA, SLIDING, TINY, causal, logits
from worker.checkpoints.loading import count_parameters, load_model
from worker.checkpoints.saving import save_model

CPU = torch.device("cpu")


def change_tensors(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


# Tiny model -> a tensor that the class would leave out in silence.
UNKNOWN = {
    "llama": "model.layers.0.self_attn.q_proj.bias",
    "mistral": "score.weight",
    "gpt2": "transformer.h.0.crossattention.bias",
    "gpt_neox": "gpt_neox.layers.0.attention.bias_scale",
    "t5": "decoder.block.1.layer.1.EncDecAttention.relative_attention_bias.weight",
    "gemma4_text": "model.layers.1.self_attn.v_proj.weight",
    "gemma4_text_shared": "model.layers.1.self_attn.q_proj.bias",
    "bert": "cls.predictions.bias",
    "roberta": "lm_head.bias",
    "electra": "discriminator_predictions.dense.bias",
    "modernbert": "model.layers.0.attn_norm.weight",
    "deberta-v2": "deberta.encoder.conv.conv.bias",
}
LEFT_OUT = {
    "llama": "model.layers.0.self_attn.rotary_emb.inv_freq",
    "gpt2": "transformer.h.0.attn.masked_bias",
    "gpt_neox": "gpt_neox.layers.1.attention.bias",
    "t5": "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    "gemma4_text_shared": "model.layers.1.self_attn.k_norm.weight",
    "bart": "model.encoder.version",
    "bert": "bert.embeddings.position_ids",
    "roberta": "roberta.pooler.dense.weight",
    "xlm-roberta": "roberta.pooler.dense.bias",
    "electra": "electra.embeddings.position_ids",
    "deberta-v2": "deberta.embeddings.position_embeddings.weight",
    "m2m_100": "model.decoder.embed_positions.weights",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_tensor_that_the_model_does_not_use_is_named(tmp_path: Path, name: str) -> None:
    checkpoints.write(tmp_path, name)
    change_tensors(tmp_path, lambda tensors: tensors | {UNKNOWN[name]: torch.ones(2)})
    with pytest.raises(InvalidModel, match=f"does not use the tensor {UNKNOWN[name]}") as caught:
        load_model(tmp_path, device=CPU)
    assert caught.value.param == "model.uri"


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_tensor_that_no_model_needs_may_be_there(tmp_path: Path, name: str) -> None:
    saved = checkpoints.write(tmp_path, name)
    change_tensors(tmp_path, lambda tensors: tensors | {LEFT_OUT[name]: torch.ones(2)})
    loaded = load_model(tmp_path, device=CPU)
    assert all(torch.equal(loaded.model.get_parameter(path), value) for path, value in saved.named_parameters())


OTHER_HEADS = {
    "bert": (BertForMaskedLM, BertForQuestionAnswering),
    "qwen2": (Qwen2ForTokenClassification,),
}


@pytest.mark.parametrize(("name", "head"), [(name, head) for name, heads in OTHER_HEADS.items() for head in heads])
def test_another_head_is_refused_by_its_name(tmp_path: Path, name: str, head: Any) -> None:
    config = TINY[name]().config
    config.tie_word_embeddings = True
    head(config).save_pretrained(tmp_path)
    checkpoints.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFamily, match=f"the class '{head.__name__}': of {name}, .* can be slimmed"):
        load_model(tmp_path, device=CPU)


def test_a_decoder_without_a_head_is_refused(tmp_path: Path) -> None:
    base: Any = causal("qwen3", tie_word_embeddings=True).base_model
    base.save_pretrained(tmp_path)
    checkpoints.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFamily, match="'Qwen3Model': of qwen3, Qwen3ForCausalLM and"):
        load_model(tmp_path, device=CPU)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    change_tensors(tmp_path, lambda tensors: tensors | {name: tensors[name] / 0})
    with pytest.raises(InvalidModel, match=f"the weights {name} are not finite"):
        load_model(tmp_path, device=CPU)


# --- other descriptions of a supported model -------------------------------------------------------------------------

PREFIXES = {
    "language_model.": {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    "model.language_model.": {"model.": "model.language_model."},
}


def renamed(tensors: dict[str, Tensor], prefixes: dict[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        prefix = next((old for old in prefixes if name.startswith(old)), "")
        found[prefixes.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return found


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_text_model_whose_tensors_carry_a_prefix_is_read(tmp_path: Path, prefix: str) -> None:
    saved = checkpoints.write(tmp_path / "model")
    change_tensors(tmp_path / "model", lambda tensors: renamed(tensors, PREFIXES[prefix]))
    check_plain_copy(tmp_path, saved)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_text_part_of_a_gemma3_is_read(tmp_path: Path, prefix: str) -> None:
    saved = checkpoints.write(tmp_path / "model", "gemma3_text")
    tower = {"vision_tower.embeddings.weight": torch.ones(2), "multi_modal_projector.norm.weight": torch.ones(2)}
    change_tensors(tmp_path / "model", lambda tensors: renamed(tensors, PREFIXES[prefix]) | tower)
    text = json.loads((tmp_path / "model/config.json").read_text())
    whole = Gemma3Config().to_dict() | {"text_config": text, "architectures": ["Gemma3ForConditionalGeneration"]}
    (tmp_path / "model/config.json").write_text(json.dumps(whole))
    check_plain_copy(tmp_path, saved)


VISION = {"hidden_size": 16, "num_heads": 2, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 4}
PIXTRAL = VISION | {"model_type": "pixtral", "num_hidden_layers": 1}
GEMMA4_OF_FOUR_LAYERS = GEMMA4 | {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "use_bidirectional_attention": "vision",
}
GEMMA4_VISION = VISION | {"num_hidden_layers": 1, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 8}
AUDIO = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "subsampling_conv_channels": [4, 4]}
OTHER_PARTS: dict[str, dict[str, Any]] = {"gemma4": {"audio_config": AUDIO | {"output_proj_dims": 8}}}
# Multimodal model, or its text part -> the config of its text part, and that of its vision part.
WHOLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemma3": (LLAMA | SLIDING | {"query_pre_attn_scalar": 8}, VISION | {"num_hidden_layers": 1, "image_size": 64}),
    "mistral3": (LLAMA | {"model_type": "mistral", "sliding_window": 4}, PIXTRAL),
    "ministral3": (LLAMA | {"model_type": "ministral3"}, PIXTRAL),
    "gemma4": (LLAMA | GEMMA4_OF_FOUR_LAYERS, GEMMA4_VISION),
    "qwen3_5": (LLAMA | LINEAR | {"model_type": "qwen3_5_text"}, VISION | {"depth": 1, "out_hidden_size": 32}),
    "qwen3_vl": (
        LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e3, "mrope_section": [2, 1, 1]}},
        VISION | {"depth": 1, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
    ),
}


@pytest.mark.parametrize("name", WHOLES)
def test_the_text_part_of_a_multimodal_model_answers_as_the_whole(tmp_path: Path, name: str) -> None:
    text, vision = WHOLES[name]
    model_type = name if name in TEXT_PARTS else "mistral3"
    config = AutoConfig.for_model(model_type, text_config=text, vision_config=vision, **OTHER_PARTS.get(name, {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = AutoModelForImageTextToText.from_config(config).eval()
    for path, buffer in whole.named_buffers():
        if path.endswith(LAYER_SCALAR):  # which are all one at first
            buffer.mul_(0.9)
    whole.save_pretrained(tmp_path / "model")
    checkpoints.tokenizer().save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model", device=CPU)
    torch.testing.assert_close(logits(loaded.model), logits(whole))
    planned = plan(request_for(tmp_path / "model"), Access(Deployment(tmp_path).storage, "default", True, ()))
    assert planned.parameters.dense == count_parameters(loaded.model)
    save_model(loaded, tmp_path / "again")
    again = load_model(tmp_path / "again", device=CPU)
    assert type(again.model) is type(loaded.model)
    torch.testing.assert_close(logits(again.model), logits(whole))
    assert "mrope" not in (tmp_path / "again/config.json").read_text()


def check_plain_copy(tmp_path: Path, saved: PreTrainedModel) -> None:
    """Assert that the model is loaded as it was saved, and saved again under the plain names."""
    loaded = load_model(tmp_path / "model", device=CPU)
    assert torch.equal(logits(loaded.model), logits(saved))
    save_model(loaded, tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() <= saved.state_dict().keys()
    assert json.loads((tmp_path / "again/config.json").read_text())["architectures"] == [type(saved).__name__]
    assert torch.equal(logits(load_model(tmp_path / "again", device=CPU).model), logits(saved))


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_whose_heads_do_not_divide_its_hidden_size_is_read_as_a_mistral(tmp_path: Path, tied: bool) -> None:
    sizes = {"num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": tied}
    saved = causal("mistral", sliding_window=None, **sizes)
    saved.save_pretrained(tmp_path)
    checkpoints.tokenizer().save_pretrained(tmp_path)
    change_config(tmp_path, model_type="llama", architectures=["LlamaForCausalLM"], attention_bias=False)
    loaded = load_model(tmp_path, device=CPU)
    assert loaded.family.model_type == "mistral"
    assert torch.equal(logits(loaded.model), logits(saved))
    change_config(tmp_path, attention_bias=True)
    with pytest.raises(InvalidModel, match="cannot be loaded"):
        load_model(tmp_path, device=CPU)
    assert LLAMA["hidden_size"] % 3
