"""Which runtimes load a checkpoint of some widths."""

import pytest

from service.families.runtimes import runtimes


@pytest.mark.parametrize(
    ("rows", "gguf", "gpu"),
    [
        ([256], {"Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0"}, {"AWQ", "GPTQ", "FP8"}),
        ([256, 96], {"Q8_0", "Q4_0"}, {"FP8"}),
        ([100], set(), set()),
    ],
)
def test_widths_decide_the_quantisations(rows: list[int], gguf: set[str], gpu: set[str]) -> None:
    found = {runtime.name: runtime for runtime in runtimes("llama", rows, [12])}
    assert set(found["llama.cpp"].quantisations) == gguf
    assert set(found["vllm"].quantisations) == gpu
    assert found["vllm"].tensor_parallel == [1, 2, 4]
    assert (found["llama.cpp"].reason is None) is (rows == [256])


def test_a_runtime_without_the_family_says_so() -> None:
    found = {runtime.name: runtime for runtime in runtimes("distilbert", [64], [4])}
    assert found["transformers"].loads
    assert not found["vllm"].loads
    assert "distilbert" in (found["vllm"].reason or "")
