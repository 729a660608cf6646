"""The tensors that a checkpoint may hold although its model does not use them. Every other tensor must be used."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from service.models.tensors import gemma4
from service.models.tensors.dense_layers import is_behind_the_last
from service.models.tensors.modules import always, every_layer


class Unused(NamedTuple):
    """Tensors that may be left out, in checkpoints of some families."""

    pattern: str  # regular expression that matches the whole name
    reason: str
    families: tuple[str, ...] = ()  # empty: all
    where: Callable[[Mapping[str, Any]], bool] = always  # the configs of models that do not use them
    # The layers that do not use them, where group 1 of `pattern` is the number of a layer.
    in_layer: Callable[[Mapping[str, Any], int], bool] = every_layer


ROBERTA = ("roberta", "xlm-roberta")
FAIRSEQ = ("bart", "opt", "mbart", "m2m_100")

UNUSED = (
    Unused(r".*rotary_emb\.inv_freq", "rotary frequencies follow from config.json"),
    Unused(r"(.*\.)?position_ids", "the positions are the numbers from 0"),
    Unused(r".*\.(attn|attention)\.(masked_)?bias", "the causal mask, which the model computes", ("gpt2", "gpt_neox")),
    Unused(r"(model\.)?(encoder|decoder)\.version", "a version number of fairseq", FAIRSEQ),
    Unused(
        r"(model\.)?(encoder|decoder)\.embed_positions\.weights?",
        "the sinusoids follow from config.json",
        ("marian", "m2m_100"),
    ),
    Unused(
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
        "the first T5 files hold it, and no version of the model has read it",
        ("t5", "mt5"),
    ),
    Unused(r"(roberta\.)?pooler\.dense\.(weight|bias)", "the classification head has a layer of its own", ROBERTA),
    Unused(
        r"(bert\.)?pooler\.dense\.(weight|bias)",
        "a head for tokens reads no pooled text",
        ("bert",),
        lambda config: "BertForTokenClassification" in (config.get("architectures") or ()),
    ),
    Unused(
        r"(deberta\.)?embeddings\.position_embeddings\.weight",
        "the mask predictions of the pretraining alone have absolute positions",
        ("deberta-v2",),
        lambda config: not config.get("position_biased_input", True),
    ),
    Unused(
        r"(model\.)?(vision_tower|multi_modal_projector)\..*",
        "the vision part of a Gemma 3 or Mistral 3, of which the text part is slimmed",
        ("gemma3_text", "mistral", "ministral3"),
    ),
    Unused(
        r"(model\.)?visual\..*",
        "the vision part of a Qwen3-VL or Qwen3.5, of which the text part is slimmed",
        ("qwen3", "qwen3_5_text"),
    ),
    Unused(
        r"(model\.)?(vision_tower|embed_vision|audio_tower|embed_audio)\..*",
        "the vision and audio parts of a Gemma 4, of which the text part is slimmed",
        ("gemma4_text",),
    ),
    Unused(
        r"(?:.*\.)?layers\.(\d{1,4})\.self_attn\.(?:[kv]_proj\.(?:weight|bias)|[kv]_norm\.weight)",
        "the layer reads the keys and values of an earlier one",
        ("gemma4_text",),
        in_layer=gemma4.shares_keys,
    ),
    Unused(
        r"(?:.*\.)?layers\.(\d{1,4})\..*",
        "layers behind the last that guess further tokens, which the model itself does not read",
        ("glm4_moe",),
        in_layer=is_behind_the_last,
    ),
    Unused(r"mtp\..*", "layers that guess further tokens, which the model itself does not read", ("qwen3_5_text",)),
)


def may_be_unused(name: str, family: str, config: Mapping[str, Any]) -> bool:
    """Whether a model of the family with this config needs nothing of the tensor."""
    rows = (row for row in UNUSED if (not row.families or family in row.families) and row.where(config))
    return any(_matches(row, name, config) for row in rows)


def _matches(row: Unused, name: str, config: Mapping[str, Any]) -> bool:
    match = re.fullmatch(row.pattern, name)
    return match is not None and (row.in_layer is every_layer or row.in_layer(config, int(match[1])))
