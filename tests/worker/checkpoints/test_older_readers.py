"""The fields that transformers 4, and runtimes that read its fields, need in the files of a checkpoint."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from tests.support import checkpoints, tiny_models
from worker.checkpoints.loading import load_model
from worker.checkpoints.older_readers import (
    old_expert_count,
    old_layer_pattern,
    old_rope_fields,
    old_tokenizer_fields,
    old_tying,
)
from worker.checkpoints.saving import save_model

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]}


def saved(family: str, **settings: Any) -> dict[str, Any]:
    """The config.json of transformers 5."""
    config: PreTrainedConfig = AutoConfig.for_model(family, **tiny_models.LLAMA | settings)
    return json.loads(config.to_json_string(use_diff=False))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("llama", {"rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}}, {"rope_theta": 5000.0}),
        (
            "llama",
            {"rope_parameters": LLAMA3 | {"rope_theta": 5000.0}},
            {"rope_theta": 5000.0, "rope_scaling": LLAMA3},
        ),
        (
            "gemma3_text",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        (
            "phi3",
            {"rope_parameters": LONG | {"rope_theta": 1e4}, "original_max_position_embeddings": 32},
            {
                "rope_theta": 1e4,
                "partial_rotary_factor": 1.0,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": LONG["short_factor"],
                    "long_factor": LONG["long_factor"],
                },
            },
        ),
        (
            "gpt_neox",
            {"rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}},
            {"rope_theta": 5000.0, "partial_rotary_factor": 0.5, "rotary_emb_base": 5000.0, "rotary_pct": 0.5},
        ),
        (
            "modernbert",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
                }
            },
            {"global_rope_theta": 5000.0, "local_rope_theta": 300.0},
        ),
        ("gemma4_text", {}, {}),
        ("bert", {}, {}),
    ],
)
def test_old_rope_fields_say_the_same_as_the_new_ones(
    family: str, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = saved(family, **settings)
    old = old_rope_fields(config)
    assert old == expected
    both = config | old
    for fields in (both, {name: value for name, value in both.items() if name != "rope_parameters"}):
        read = AutoConfig.for_model(**fields)
        for name, value in (config.get("rope_parameters") or {}).items():
            assert read.rope_parameters[name] == value


@pytest.mark.parametrize(
    ("kept", "every"), [(range(7), 3), ([0, 3, 6], 1), ([0, 1, 3, 4, 6], 2), ([0, 1, 2], 3), ([0, 1, 3, 6], None)]
)
def test_the_pattern_of_a_modernbert_is_a_number_where_it_has_one(kept: Iterable[int], every: int | None) -> None:
    whole = saved("modernbert", num_hidden_layers=7)["layer_types"]
    types = [whole[index] for index in kept]
    assert old_layer_pattern({"model_type": "modernbert", "layer_types": types}) == {
        "global_attn_every_n_layers": every
    }
    if every is not None:
        told = {"num_hidden_layers": len(types), "global_attn_every_n_layers": every}
        assert saved("modernbert", **told)["layer_types"] == types
    assert old_layer_pattern({"model_type": "gemma2", "layer_types": types}) == {}


def test_each_part_of_a_t5gemma_has_the_old_rope_fields() -> None:
    config = json.loads(tiny_models.t5gemma().config.to_json_string(use_diff=False))
    for part in ("encoder", "decoder"):
        config[part]["rope_parameters"] = {"rope_type": "default", "rope_theta": 5000.0}
        written = old_rope_fields(config)[part]
        assert written.pop("rope_theta") == 5000.0
        assert written == config[part]


def test_a_t5_with_a_head_of_its_own_is_marked_untied() -> None:
    tensors = {"shared.weight", "lm_head.weight"}
    assert old_tying({"model_type": "t5", "scale_decoder_outputs": False}, tensors) == {"tie_word_embeddings": False}
    assert old_tying({"model_type": "mt5"}, tensors) == {"tie_word_embeddings": False}
    assert old_tying({"model_type": "umt5"}, tensors) == {"tie_word_embeddings": False}
    assert old_tying({"model_type": "t5", "scale_decoder_outputs": True}, tensors) == {}
    assert old_tying({"model_type": "t5"}, tensors) == {}
    assert old_tying({"model_type": "mt5"}, {"shared.weight"}) == {}
    assert old_tying({"model_type": "llama"}, tensors) == {}


@pytest.mark.parametrize(
    ("written", "original", "expected"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, {}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        (
            {"tokenizer_class": "TokenizersBackend"},
            {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "chat_template": "{{ x }}"},
            {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
        ),
        (
            {"tokenizer_class": "GPT2Tokenizer", "extra_special_tokens": ["<x>"]},
            {},
            {
                "tokenizer_class": "GPT2Tokenizer",
                "extra_special_tokens": {},
                "additional_special_tokens": ["<x>"],
            },
        ),
    ],
)
def test_the_tokenizer_has_a_class_and_fields_that_both_versions_know(
    written: dict[str, Any], original: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert old_tokenizer_fields(written, original) == expected


def test_a_saved_checkpoint_has_the_old_fields_and_the_same_tokenizer(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model")
    path = tmp_path / "model/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra_special_tokens": ["<x>"], "add_bos_token": True}))
    (tmp_path / "model/vocab.json").write_text('{"a": 1}')
    loaded = load_model(tmp_path / "model", device=torch.device("cpu"))
    save_model(loaded, tmp_path / "slim")
    config = json.loads((tmp_path / "slim/config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    written = json.loads((tmp_path / "slim/tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["<x>"]
    assert written["add_bos_token"] is True
    assert (tmp_path / "slim/vocab.json").read_text() == '{"a": 1}'
    again, tokenizer = AutoTokenizer.from_pretrained(tmp_path / "slim"), loaded.tokenizer
    assert again("a good film<x>").input_ids == tokenizer("a good film<x>").input_ids
    assert again.extra_special_tokens == tokenizer.extra_special_tokens == ["<x>"]


@pytest.mark.parametrize(("family", "expected"), [("qwen3_moe", {"num_experts": 8}), ("mixtral", {}), ("olmoe", {})])
def test_the_number_of_experts_has_the_name_that_transformers_4_reads(family: str, expected: dict[str, Any]) -> None:
    assert old_expert_count(saved(family, **tiny_models.EXPERTS)) == expected
