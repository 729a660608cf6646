"""Which runtimes load a checkpoint of some widths."""

from collections.abc import Sequence
from typing import Any

import pytest

from service.contract.options import Unit
from service.models.families.runtimes.table import RUNTIMES, runtimes_after
from service.models.families.table import FAMILIES
from tests.support.planning import sizes


@pytest.mark.parametrize(
    ("widths", "gguf", "gpu"),
    [
        ([256], {"Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0"}, {"AWQ", "GPTQ", "FP8"}),
        ([256, 96], {"Q8_0", "Q4_0"}, {"FP8"}),
        ([100], set(), set()),
    ],
)
def test_widths_decide_the_quantisations(widths: list[int], gguf: set[str], gpu: set[str]) -> None:
    loading = runtimes_after(sizes("llama", widths=widths, heads=12))
    found = {runtime.name: runtime for runtime in loading}
    assert set(found["llama.cpp"].quantisations) == gguf
    assert set(found["vllm"].quantisations) == gpu
    assert found["vllm"].tensor_parallel == [1, 2, 4]
    assert (found["llama.cpp"].reason is None) is (widths == [256])


def test_a_runtime_without_the_family_says_so() -> None:
    loading = runtimes_after(sizes("distilbert"))
    found = {runtime.name: runtime for runtime in loading}
    assert found["transformers"].loads
    assert not found["vllm"].loads
    assert "distilbert" in (found["vllm"].reason or "")


def not_loading(family: str, units: list[Unit], **changes: Any) -> dict[str, str]:
    """Runtime -> why it does not load the slim model."""
    found = runtimes_after(sizes(family, units, **changes))
    return {runtime.name: runtime.reason or "" for runtime in found if not runtime.loads}


def test_a_qwen2_with_fewer_heads_is_loaded_by_transformers_alone() -> None:
    assert not_loading("qwen2", [Unit.ffn]) == {}
    refusing = not_loading("qwen2", [Unit.heads], heads=4)
    assert refusing.keys() == RUNTIMES.keys() - {"transformers"}
    assert "--model-impl transformers" in refusing["vllm"]
    assert "remove other units" in refusing["llama.cpp"]
    assert not_loading("qwen2", [Unit.heads], heads_known=False).keys() == refusing.keys()
    assert not_loading("qwen3", [Unit.heads], heads=4) == {}
    assert not_loading("llama", [Unit.heads], heads=3) == {}


def test_a_phi3_with_fewer_heads_is_not_loaded_by_llama_cpp_and_mlx_lm() -> None:
    assert not_loading("phi3", [Unit.ffn, Unit.layers], layers_known=False) == {}
    assert not_loading("phi3", [Unit.heads], heads=4).keys() == {"llama.cpp", "mlx-lm"}


def types(*numbers: int) -> list[str]:
    """The types of the layers of a Gemma 3 that stay."""
    return ["full_attention" if (number + 1) % 6 == 0 else "sliding_attention" for number in numbers]


@pytest.mark.parametrize(
    ("kept", "refusing"),
    [
        (range(12), set()),
        (range(6), set()),
        ([*range(5), *range(6, 12)], {"llama.cpp", "mlx-lm"}),
        ([0, 1, 2, 3, 4, 11], set()),
        (range(4), {"mlx-lm"}),
    ],
)
def test_a_gemma_3_without_layers_needs_its_pattern(kept: Sequence[int], refusing: set[str]) -> None:
    config = {"layer_types": types(*kept), "query_pre_attn_scalar": 64}
    assert not_loading("gemma3_text", [Unit.layers], layers=len(kept), config=config).keys() == refusing
    unknown = not_loading("gemma3_text", [Unit.layers], layers=len(kept), config=config, layers_known=False)
    assert unknown.keys() == {"llama.cpp", "mlx-lm"}


def test_a_gemma_2_without_layers_needs_its_pattern() -> None:
    fixed = {"query_pre_attn_scalar": 64}
    kept, broken = (["sliding_attention", other] * 2 for other in ("full_attention", "sliding_attention"))
    assert not_loading("gemma2", [Unit.layers], layers=4, config=fixed | {"layer_types": kept}) == {}
    refusing = not_loading("gemma2", [Unit.layers], layers=4, config=fixed | {"layer_types": broken})
    assert refusing.keys() == {"sglang", "llama.cpp"}


def test_a_modernbert_without_layers_needs_its_pattern() -> None:
    full, local = "full_attention", "sliding_attention"
    assert not_loading("modernbert", [Unit.ffn]).keys() == {"sglang", "llama.cpp", "mlx-lm"}
    for kept, every, loads in (
        ([full, local, full], 2, True),
        ([full, full, local], 3, False),
        ([full, local], 3, False),
    ):
        config = {"layer_types": kept, "global_attn_every_n_layers": every}
        assert ("vllm" not in not_loading("modernbert", [Unit.layers], config=config)) is loads
    assert "not known yet" in not_loading("modernbert", [Unit.layers], layers_known=False)["vllm"]


def test_llama_cpp_loads_the_gemma_whose_scale_it_computes() -> None:
    assert not_loading("gemma2", [Unit.ffn], config={"query_pre_attn_scalar": 256}).keys() == {"llama.cpp"}
    large = {"layers": 46, "heads": 32, "head_size": 128, "hidden_size": 4608, "config": {"query_pre_attn_scalar": 144}}
    assert not_loading("gemma2", [Unit.ffn], **large) == {}
    for changed in ({"layers": 44}, {"heads": 24}, {"heads_known": False}):
        assert not_loading("gemma2", [Unit.heads], **large | changed).keys() == {"llama.cpp"}


def test_mlx_lm_is_promised_for_rotary_positions_that_were_compared() -> None:
    for kind, refusing in (("default", set()), ("llama3", set()), ("yarn", {"mlx-lm"})):
        assert not_loading("llama", [Unit.ffn], config={"rope_parameters": {"rope_type": kind}}).keys() == refusing


def test_mlx_lm_is_right_for_texts_of_a_gemma_2_within_its_window() -> None:
    for window, expected in ((512, "at most 512 tokens"), (None, "")):
        config = {"query_pre_attn_scalar": 64, "sliding_window": window}
        found = {each.name: each for each in runtimes_after(sizes("gemma2", [Unit.ffn], widths=[64], config=config))}
        assert found["mlx-lm"].loads
        assert expected in (found["mlx-lm"].reason or "")


def test_sglang_loads_a_llama_without_biases_of_feed_forward_modules() -> None:
    assert not_loading("llama", [Unit.ffn], config={"mlp_bias": True}).keys() == {"sglang"}
    assert not_loading("llama", [Unit.ffn], config={"mlp_bias": False}) == {}


STARTS = [int((number + 1) % 4 != 0) for number in range(12)]
OTHERS = [int(number % 4 != 0) for number in range(12)]
SLIDING, FULL = ["sliding_attention"], ["full_attention"]


@pytest.mark.parametrize(
    ("family", "changes", "refusing"),
    [
        ("smollm3", {}, set()),
        ("smollm3", {"config": {"no_rope_layers": STARTS}}, set()),
        ("smollm3", {"config": {"no_rope_layers": OTHERS}}, {"llama.cpp"}),
        ("smollm3", {"config": {"attention_bias": True}}, {"llama.cpp"}),
        ("smollm3", {"layers_known": False}, {"llama.cpp"}),
        ("ministral3", {"config": {"rope_parameters": {"rope_type": "yarn"}}}, set()),
        ("ministral3", {}, {"llama.cpp", "mlx-lm"}),
        ("granite", {}, set()),
        ("granite", {"heads": 4}, {"llama.cpp", "mlx-lm"}),
        ("olmo3", {"config": {"layer_types": (SLIDING * 3 + FULL) * 3}}, set()),
        ("olmo3", {"config": {"layer_types": (SLIDING + FULL) * 6}}, {"llama.cpp"}),
        ("olmo3", {"config": {"layer_types": SLIDING * 2}, "layers": 2}, {"mlx-lm"}),
        ("olmo3", {"config": {"tie_word_embeddings": True}}, {"llama.cpp"}),
        ("gemma", {"heads": 4}, set()),
        ("gemma", {"config": {"tie_word_embeddings": False}}, {"vllm", "llama.cpp", "mlx-lm"}),
        ("glm4", {"heads": 4}, set()),
        ("glm4", {"config": {"tie_word_embeddings": True}}, {"mlx-lm"}),
        ("starcoder2", {}, set()),
        ("starcoder2", {"heads": 4}, {"vllm", "llama.cpp", "mlx-lm"}),
        ("starcoder2", {"config": {"use_bias": False}}, {"llama.cpp", "mlx-lm"}),
        ("nemotron", {"heads": 4}, {"llama.cpp"}),
        ("exaone4", {"config": {"sliding_window": None}}, set()),
        ("exaone4", {"config": {"layer_types": SLIDING + FULL}}, {"llama.cpp"}),
        ("exaone4", {"config": {"layer_types": SLIDING * 48 + FULL * 16}, "layers": 64}, set()),
        ("exaone4", {"config": {"layer_types": FULL * 64}, "layers": 64}, {"vllm"}),
        ("seed_oss", {"heads": 4}, set()),
        ("seed_oss", {"config": {"attention_out_bias": True}}, {"vllm", "llama.cpp"}),
        ("hunyuan_v1_dense", {"heads": 4}, set()),
        ("hunyuan_v1_dense", {"config": {"rope_parameters": {"rope_type": "dynamic"}}}, {"llama.cpp"}),
        ("ernie4_5", {"heads": 4}, set()),
        ("ernie4_5", {"config": {"use_bias": True}}, {"vllm", "llama.cpp"}),
    ],
)
def test_what_a_runtime_takes_from_a_config_decides(family: str, changes: dict[str, Any], refusing: set[str]) -> None:
    never = RUNTIMES.keys() - {"transformers", *FAMILIES[family].runtimes}
    assert not_loading(family, [Unit.heads], **changes).keys() == refusing | never


@pytest.mark.parametrize(("family", "kind"), [("llama", "decoder_classifier"), ("bert", "token_classifier")])
def test_no_other_runtime_is_promised_for_a_head_that_was_not_tested(family: str, kind: str) -> None:
    found = {runtime.name: runtime for runtime in runtimes_after(sizes(family, kind=kind))}
    assert [name for name, runtime in found.items() if runtime.loads] == ["transformers"]
    assert "was not tested" in (found["vllm"].reason or "")
    assert len([runtime for runtime in runtimes_after(sizes(family)) if runtime.loads]) > 1
