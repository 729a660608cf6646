"""Draws models as users have them, and writes their files: config.json, weights, tokenizer and an adapter."""

import json
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from service.models.families.family import CLASSIFIERS, Kind
from service.models.tensors.gemma4 import LAYER_SCALAR
from tests.support import checkpoints
from tests.support.checkpoints import change_json
from tests.support.tiny_models import HIDDEN_SIZE, VOCABULARY, base_name, changed, tiny_family

DRAWN_DTYPES = ("float32", "float32", "bfloat16", "float16")
ROTARY = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "gpt_neox", "smollm3", "granite", "gemma"),
    *("glm4", "starcoder2", "nemotron", "exaone4", "seed_oss", "hunyuan_v1_dense", "ernie4_5"),
)
PARTIAL = {"gpt_neox": 1.0, "glm4": 0.5, "nemotron": 0.5}  # family -> the share of the dimensions that are rotated
JOINT_NORM = ("olmo2", "olmo3")
# Families whose heads may have any size, and the fields that give their modules biases.
ANY_HEAD_SIZE = (
    *("llama", "mistral", "qwen3", "gemma2", "ministral3", "gemma", "glm4", "starcoder2", "nemotron", "exaone4"),
    *("seed_oss", "hunyuan_v1_dense", "ernie4_5"),
)
PATTERNS = {"olmo3": "layer_types", "exaone4": "layer_types", "smollm3": "no_rope_layers"}
KINDS: dict[str, tuple[Any, ...]] = {
    "layer_types": tuple(
        [f"{kind}_attention" for kind in kinds] for kinds in (("full", "sliding"), ("sliding", "full"))
    ),
    "no_rope_layers": ([1, 0], [0, 1], [0, 0]),
}
# Layers that share keys and values, no inputs of layers, values of their own, and fewer key-value heads in some layers.
GEMMA4: tuple[dict[str, Any], ...] = (
    {},
    {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "per_layer_config": {index: {"head_dim": 16} for index in (1, 3)},
    },
    {"hidden_size_per_layer_input": 0},
    {"attention_k_eq_v": False, "final_logit_softcapping": 30.0},
    {"per_layer_config": {1: {"head_dim": 16, "num_key_value_heads": 1}}},
)
BIASES = {
    "llama": ("attention_bias", "mlp_bias"),
    "smollm3": ("attention_bias", "mlp_bias"),
    "granite": ("attention_bias", "mlp_bias"),
    "gemma": ("attention_bias",),
    "glm4": ("attention_bias",),
    "starcoder2": ("use_bias",),
    "nemotron": ("attention_bias", "mlp_bias"),
    "seed_oss": ("attention_bias", "attention_out_bias", "mlp_bias"),
    "hunyuan_v1_dense": ("attention_bias",),
    "ernie4_5": ("use_bias",),
}
ROPE: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e5, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
PHI3_ROPE: dict[str, dict[str, Any]] = {
    "default": ROPE["default"],
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 3.0, 4.0, 8.0],
        "original_max_position_embeddings": 32,
    },
}
GENERATION: dict[str, dict[str, Any]] = {
    "plain": {},
    "beams": {"num_beams": 3},
    "length": {"min_length": 12},
    "n-grams": {"no_repeat_ngram_size": 1},
    "penalty": {"repetition_penalty": 5.0},
    "suppressed": {"suppress_tokens": list(range(4, 64))},
    "sampled": {"do_sample": True, "temperature": 2.0},
}
# Family -> modules that an adapter changes: of the attention, of the feed-forward block, the embedding. Experts have no
# linear modules.
MODULES: dict[str, tuple[str, str, str]] = {
    "glm4": ("q_proj", "gate_up_proj", "embed_tokens"),
    "starcoder2": ("v_proj", "c_fc", "embed_tokens"),
    "phi3": ("qkv_proj", "gate_up_proj", "embed_tokens"),
    **dict.fromkeys(
        ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "gpt_oss", "glm4_moe"), ("q_proj", "v_proj", "embed_tokens")
    ),
    "gpt2": ("c_attn", "c_fc", "wte"),
    "opt": ("q_proj", "fc1", "embed_tokens"),
    "gpt_neox": ("query_key_value", "dense_4h_to_h", "embed_in"),
    "t5": ("q", "wo", ""),
    "t5_gated": ("v", "wi_1", ""),
    "mt5": ("q", "wo", ""),
    "bart": ("v_proj", "fc2", ""),
    "bert": ("query", "intermediate.dense", "word_embeddings"),
    "roberta": ("value", "intermediate.dense", "word_embeddings"),
    "distilbert": ("q_lin", "lin1", "word_embeddings"),
    "xlm-roberta": ("query", "intermediate.dense", "word_embeddings"),
    "electra": ("key", "intermediate.dense", "word_embeddings"),
    "modernbert": ("Wqkv", "mlp.Wi", "tok_embeddings"),
    "deberta-v2": ("query_proj", "intermediate.dense", "word_embeddings"),
    "deberta-v2_conv": ("key_proj", "intermediate.dense", "word_embeddings"),
    "mbart": ("q_proj", "fc1", ""),
    "pegasus": ("v_proj", "fc2", ""),
    "m2m_100": ("k_proj", "fc1", ""),
    "marian": ("v_proj", "fc2", ""),
    "umt5": ("k", "wi_0", ""),
    "t5gemma": ("q_proj", "down_proj", ""),
}
LLAMA_MODULES = ("q_proj", "down_proj", "embed_tokens")
HEADS = {"t5gemma": "out_proj"}  # family -> the linear module of its head, where it is not lm_head
# Damage to the tensors of a file, which both plan and worker refuse.
DAMAGE: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "another tensor": lambda tensors: tensors | {"another_head.weight": torch.ones(2, HIDDEN_SIZE)},
    "other names": lambda tensors: {name.replace(".1.", ".7."): value for name, value in tensors.items()},
}


@dataclass(frozen=True)
class DrawnModel:
    """What a model and its files are; `flag` is `tie_word_embeddings` in config.json, whatever the files hold."""

    name: str  # of TINY
    settings: dict[str, Any] = field(default_factory=dict)
    old_rope: bool = False  # config.json has the fields of transformers 4
    head: str = "as built"  # or "own", "shared", "repeated"
    flag: bool | None = None
    dtype: str = "float32"
    opening: bool = True  # the tokenizer of a decoder adds a beginning-of-sequence token
    pad: int | None = 0
    generation: str = "plain"
    adapter: dict[str, Any] | None = None
    damage: str = ""  # to the checkpoint
    adapter_damage: str = ""

    @property
    def kind(self) -> Kind:
        return tiny_family(self.name).kind


def drawn_model(random: Random, names: Sequence[str]) -> DrawnModel:
    """A model of one of the families; most have some fields of their own, few are damaged."""
    name = random.choice(names)
    kind = tiny_family(name).kind
    head, flag = "as built", None
    if kind not in CLASSIFIERS:
        head, flag = random.choice(("as built", "own", "shared", "repeated")), random.choice((None, True, False))
        if head == "shared" and not tiny_family(name).names.always_tied:
            flag = True  # else the head would be missing
    adapter = random.choice(_adapters(name, kind)) if random.random() < 0.5 else None
    damage = random.choice(tuple(DAMAGE)) if random.random() < 0.15 else ""
    return DrawnModel(
        name,
        _settings(random, name),
        old_rope=random.random() < 0.5,
        head=head,
        flag=flag,
        dtype=random.choice(DRAWN_DTYPES),
        opening=random.random() < 0.5,
        pad=random.choice((0, None, -1)) if kind == "causal" else 0,
        generation=random.choice(tuple(GENERATION)),
        adapter=adapter,
        damage=damage if not adapter else "",
        adapter_damage=damage if adapter else "",
    )


def _settings(random: Random, name: str) -> dict[str, Any]:
    """Fields of the config that change sizes, biases or positions."""
    found: dict[str, Any] = dict(random.choice(GEMMA4)) if name == "gemma4_text" else {}
    name = base_name(name)
    if name in ROTARY and random.random() < 0.8:
        kinds = PHI3_ROPE if name == "phi3" else ROPE
        part = {"partial_rotary_factor": PARTIAL[name]} if name in PARTIAL else {}
        found["rope_parameters"] = kinds[random.choice(tuple(kinds))] | part
    if (name in ROTARY or name == "ministral3") and name not in ("gpt_neox", *JOINT_NORM):
        found["num_key_value_heads"] = random.choice((2, 4, 1))
    if name in ANY_HEAD_SIZE:
        found["head_dim"] = random.choice((8, 16) if name in PARTIAL else (8, 16, 4))
    found |= {field: random.random() < 0.3 for field in BIASES.get(name, ())}
    if name in PATTERNS:
        found[PATTERNS[name]] = random.choice(KINDS[PATTERNS[name]])
    if name == "gpt2":
        found["n_inner"] = random.choice((48, None))
    return found


def _adapters(name: str, kind: Kind) -> list[dict[str, Any]]:
    """Options of LoRA: which modules it changes, and which it stores whole."""
    attention, feed_forward, embedding = MODULES.get(base_name(name), LLAMA_MODULES)
    found: list[dict[str, Any]] = [
        {"target_modules": [attention]},
        {"target_modules": [feed_forward]},
        {"target_modules": [attention, feed_forward], "use_rslora": True},
    ]
    if kind in CLASSIFIERS:
        return [options | {"task_type": "SEQ_CLS"} for options in found]
    head = HEADS.get(name, "lm_head")
    found += [{"target_modules": [head]}, {"target_modules": [attention], "modules_to_save": [head]}]
    if embedding:
        found += [
            {"target_modules": [embedding]},
            {"target_modules": [attention], "modules_to_save": [embedding]},
            {"target_modules": [attention], "modules_to_save": [embedding, "lm_head"]},
        ]
    return found


def write(drawn: DrawnModel, directory: Path) -> PreTrainedModel:
    """Write the files of a drawn model to `model` and `adapter`; the model in float32, the adapter beside its weights.

    The model never went through its files, so that its logits tell what they should hold; the adapter is read by PEFT.
    """
    model = _built(drawn)
    _write_model(drawn, model, directory / "model")
    return model if drawn.adapter is None else _adapted(drawn, model, directory / "adapter")


def _built(drawn: DrawnModel) -> PreTrainedModel:
    tied = {} if drawn.flag is None else {"tie_word_embeddings": drawn.flag}
    model = changed(drawn.name, **drawn.settings, **tied)
    torch.manual_seed(1)
    if drawn.head == "own":
        model.get_output_embeddings().weight = torch.nn.Parameter(torch.randn(VOCABULARY, HIDDEN_SIZE))
    elif drawn.head in ("shared", "repeated"):
        source = model.get_decoder() if drawn.kind == "encoder_decoder" else model
        model.get_output_embeddings().weight = source.get_input_embeddings().weight
    scalars = ((name, buffer) for name, buffer in model.named_buffers() if name.endswith(LAYER_SCALAR))
    for name, tensor in (*model.named_parameters(), *scalars):
        if name not in (model._keys_to_ignore_on_save or ()):
            tensor.data = tensor.data.to(getattr(torch, drawn.dtype)).float()
    model.requires_grad_(False)
    return model


def _write_model(drawn: DrawnModel, model: PreTrainedModel, directory: Path) -> None:
    directory.mkdir(parents=True)
    tensors = _stored(drawn, model)
    if drawn.damage:
        tensors = DAMAGE[drawn.damage](tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text()) | {"dtype": drawn.dtype}
    if drawn.flag is not None:
        config["tie_word_embeddings"] = drawn.flag
    if drawn.kind == "causal":
        config["pad_token_id"] = drawn.pad
    if drawn.old_rope and drawn.settings.get("rope_parameters"):
        config = _with_old_rope(config)
    (directory / "config.json").write_text(json.dumps(config))
    if drawn.kind not in CLASSIFIERS:
        model.generation_config.save_pretrained(directory)
        change_json(directory / "generation_config.json", **GENERATION[drawn.generation])
    frame = "bare" if drawn.kind == "causal" and not drawn.opening else drawn.kind
    checkpoints.tokenizer(frame).save_pretrained(directory)


def _stored(drawn: DrawnModel, model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors of the file: shared ones once, under the first of their names, unless the head is repeated."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        is_repeated = drawn.head == "repeated" and name.startswith("lm_head.")
        if tensor.data_ptr() not in seen or is_repeated:
            stored = "embed_out.weight" if drawn.name == "gpt_neox" and name == "lm_head.weight" else name
            found[stored] = tensor.clone().to(getattr(torch, drawn.dtype))
        seen.add(tensor.data_ptr())
    return found


def _with_old_rope(config: dict[str, Any]) -> dict[str, Any]:
    names = {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor"}
    if config["model_type"] == "gpt_neox":
        names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    rope = dict(config.pop("rope_parameters"))
    old = {names[name]: rope.pop(name) for name in names if name in rope}
    return config | old | ({} if rope["rope_type"] == "default" else {"rope_scaling": rope})


def _adapted(drawn: DrawnModel, model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    with warnings.catch_warnings(action="ignore"):
        torch.manual_seed(2)
        trained = get_peft_model(deepcopy(model), LoraConfig(**{"r": 2, "lora_alpha": 4, **(drawn.adapter or {})}))
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.3)
        trained.save_pretrained(str(directory))
        adapted: Any = PeftModel.from_pretrained(model, str(directory)).eval().requires_grad_(False)
    if drawn.adapter_damage:
        path = directory / "adapter_model.safetensors"
        save_file(DAMAGE[drawn.adapter_damage](load_file(path)), path, {"format": "pt"})
    base: PreTrainedModel = adapted.get_base_model()
    return base
