"""Which runtimes load a checkpoint of some widths."""

import pytest

from service.contract.options import Unit
from service.families.runtimes import runtimes_after


@pytest.mark.parametrize(
    ("widths", "gguf", "gpu"),
    [
        ([256], {"Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0"}, {"AWQ", "GPTQ", "FP8"}),
        ([256, 96], {"Q8_0", "Q4_0"}, {"FP8"}),
        ([100], set(), set()),
    ],
)
def test_widths_decide_the_quantisations(widths: list[int], gguf: set[str], gpu: set[str]) -> None:
    loading = runtimes_after([Unit.ffn], "llama", widths=widths, heads=12, head_size=64)
    found = {runtime.name: runtime for runtime in loading}
    assert set(found["llama.cpp"].quantisations) == gguf
    assert set(found["vllm"].quantisations) == gpu
    assert found["vllm"].tensor_parallel == [1, 2, 4]
    assert (found["llama.cpp"].reason is None) is (widths == [256])


def test_a_runtime_without_the_family_says_so() -> None:
    loading = runtimes_after([Unit.ffn], "distilbert", widths=[64], heads=4, head_size=16)
    found = {runtime.name: runtime for runtime in loading}
    assert found["transformers"].loads
    assert not found["vllm"].loads
    assert "distilbert" in (found["vllm"].reason or "")
