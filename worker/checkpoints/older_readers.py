"""Makes a checkpoint readable for older software: transformers 4, and runtimes that read its fields and files.

transformers 5 keeps everything about rotary positions in `rope_parameters`. Readers of the older fields take their
own defaults where these are missing, and compute other logits without a word. The old fields stand beside the new ones
with the same values. The vocabularies that the source has beside tokenizer.json are copied: converters to other formats
read them. Where tokens were removed they are written anew, but for those of sentencepiece, which are left out.
"""

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from service.models.families.runtimes.layer_patterns import every_nth
from service.sources.model_files import CONFIG, TOKENIZER_CONFIG
from worker.sources.validation import tensor_names

TOKENIZER = "tokenizer.json"
# Class of transformers 5 alone -> the same class under the name that both versions have.
TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
VOCABULARIES = (
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
# In `rope_parameters`, and no part of the old `rope_scaling`.
BESIDE_SCALING = ("rope_theta", "partial_rotary_factor")
NEW_FAMILIES = ("gemma4_text",)  # no class of transformers 4, and one of 5 that takes the old fields for its own
PHI3_SCALING = ("short_factor", "long_factor")  # its older config takes these and the type, and nothing else


def write_for_older_readers(directory: Path, source: Path, new_ids: Mapping[int, int] | None = None) -> None:
    """Complete the files that transformers has written; `source` is the checkpoint that was loaded.

    `new_ids` are those of the tokens that stay, where some were removed.
    """
    names = tensor_names(directory)
    _update(
        directory / CONFIG,
        lambda config: (
            old_rope_fields(config) | old_layer_pattern(config) | old_tying(config, names) | old_expert_count(config)
        ),
    )
    if (directory / TOKENIZER_CONFIG).exists():
        original = _read(source / TOKENIZER_CONFIG) if (source / TOKENIZER_CONFIG).exists() else {}
        if new_ids is not None:
            original = with_new_ids(original, new_ids)
        _update(directory / TOKENIZER_CONFIG, lambda written: old_tokenizer_fields(written, original))
    if new_ids is not None:
        write_vocabularies(directory, [name for name in VOCABULARIES if (source / name).exists()])
        return
    for name in VOCABULARIES:
        if (source / name).exists() and not (directory / name).exists():
            shutil.copyfile(source / name, directory / name)


def with_new_ids(fields: Mapping[str, Any], ids: Mapping[int, int]) -> dict[str, Any]:
    """The fields of a tokenizer_config.json with the new ids of its added tokens."""
    added = fields.get("added_tokens_decoder")
    if not added:
        return dict(fields)
    renumbered = {str(ids[int(number)]): token for number, token in added.items() if int(number) in ids}
    return {**fields, "added_tokens_decoder": renumbered}


def write_vocabularies(directory: Path, names: Collection[str]) -> None:
    """Write the pieces of tokenizer.json into those of the named files that hold them as text."""
    model = _read(directory / TOKENIZER)["model"]
    lines: dict[str, str] = {}
    if model["type"] == "BPE":
        lines["vocab.json"] = json.dumps(model["vocab"], ensure_ascii=False)
        lines["merges.txt"] = "".join(["#version: 0.2\n", *(f"{' '.join(merge)}\n" for merge in model["merges"])])
    elif model["type"] == "WordPiece":
        lines["vocab.txt"] = "".join(f"{piece}\n" for piece in sorted(model["vocab"], key=model["vocab"].get))
    for name in lines.keys() & set(names):
        (directory / name).write_text(lines[name], encoding="utf-8")


def old_rope_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that transformers 4 reads in place of `rope_parameters`."""
    if config.get("model_type") == "t5gemma":
        return {part: config[part] | old_rope_fields(config[part]) for part in ("encoder", "decoder")}
    rope = config.get("rope_parameters")
    if not rope or config["model_type"] in NEW_FAMILIES:
        return {}
    if config["model_type"] == "modernbert":
        thetas = {"global_rope_theta": "full_attention", "local_rope_theta": "sliding_attention"}
        return {name: rope[kind]["rope_theta"] for name, kind in thetas.items()}
    if "full_attention" in rope:  # Gemma 3: one set of parameters for each type of layer
        local = rope.get("sliding_attention") or rope["full_attention"]
        return _old_fields(rope["full_attention"]) | {"rope_local_base_freq": local["rope_theta"]}
    if config["model_type"] == "hunyuan_v1_dense":
        return _hunyuan_fields(rope)
    if config["model_type"] == "gpt_neox":
        neox = {"rotary_emb_base": rope["rope_theta"], "rotary_pct": rope.get("partial_rotary_factor", 0.25)}
        return _old_fields(rope) | neox
    if config["model_type"] == "phi3" and rope["rope_type"] != "default":
        scaling = {"type": rope["rope_type"]} | {name: rope[name] for name in PHI3_SCALING}
        return _old_fields(rope) | {"rope_scaling": scaling}
    return _old_fields(rope)


def _hunyuan_fields(rope: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM asks for `use_qk_norm`, which the class of transformers always has, mlx-lm for the older name `type`."""
    found = _old_fields(rope) | {"use_qk_norm": True}
    scaling = found.get("rope_scaling")
    return found | {"rope_scaling": scaling | {"type": scaling["rope_type"]}} if scaling else found


def _old_fields(rope: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: rope[name] for name in BESIDE_SCALING if name in rope}
    if rope["rope_type"] == "default":
        return found
    scaling = {name: value for name, value in rope.items() if name not in BESIDE_SCALING}
    return found | {"rope_scaling": scaling}


def old_layer_pattern(config: Mapping[str, Any]) -> dict[str, Any]:
    """The field of a ModernBERT that transformers 4 reads in place of `layer_types`.

    Null where no number says the same, so that such a reader fails.
    """
    is_modernbert = config["model_type"] == "modernbert"
    return {"global_attn_every_n_layers": every_nth(config["layer_types"])} if is_modernbert else {}


def old_tying(config: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    """T5 with a head of its own: transformers 4 scales the input of the head unless this field says untied.

    A UMT5 is always scaled by transformers 5. The field keeps transformers 4 from leaving out its head.
    """
    is_scaled = config.get("scale_decoder_outputs", config["model_type"] == "t5")
    has_own_head = config["model_type"] in ("t5", "mt5", "umt5") and "lm_head.weight" in tensors
    return {"tie_word_embeddings": False} if has_own_head and not is_scaled else {}


def old_expert_count(config: Mapping[str, Any]) -> dict[str, Any]:
    """The field in which transformers 4 and runtimes read how many experts a Qwen3-MoE has."""
    is_renamed = config["model_type"] == "qwen3_moe" and "num_local_experts" in config
    return {"num_experts": config["num_local_experts"]} if is_renamed else {}


def old_tokenizer_fields(written: Mapping[str, Any], original: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of tokenizer_config.json that older versions need: those of the source where it has them."""
    fields = {name: value for name, value in original.items() if name != "chat_template"}  # it has its own file
    kind = str(fields.get("tokenizer_class") or written.get("tokenizer_class"))
    fields["tokenizer_class"] = TOKENIZER_CLASSES.get(kind, kind)
    extra = (dict(written) | fields).get("extra_special_tokens")
    if isinstance(extra, list):  # a mapping in transformers 4, which has another field for a list
        fields |= {"extra_special_tokens": {}, "additional_special_tokens": extra}
    return fields


def _update(path: Path, changes: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    content = _read(path)
    path.write_text(json.dumps(content | changes(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
