"""Which widths a precision takes, and what a refusal says to send."""

from typing import Any

import pytest

from service.contract.errors import UnsupportedFormat
from service.contract.request.job_request import JobRequest
from service.exports.precisions import check_precisions, group_size, planned_precisions
from service.models.families.table import FAMILIES

CONFIG = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
LENGTHS = (128, 512)


def request(precision: str, units: list[str], **output: Any) -> JobRequest:
    task = {"template": "{text}", "labels": {"a": "a", "b": "b"}, "calibration": {"uri": "file:///rows.jsonl"}}
    return JobRequest.model_validate(
        {
            "model": {"uri": "file:///model"},
            "task": task,
            "target": {"ratio": 0.3},
            "method": {"units": units},
            "output": {"quantise": [precision]} | output,
        }
    )


def refusal(asked: JobRequest, lengths: tuple[int, ...] = LENGTHS, family: str = "llama") -> str:
    with pytest.raises(UnsupportedFormat) as refused:
        check_precisions(asked, FAMILIES[family], CONFIG, lengths)
    assert refused.value.param == "output.quantise"
    return refused.value.message


@pytest.mark.parametrize(
    ("lengths", "size"), [((576, 1536), 64), ((4096, 14336), 128), ((96, 320), 32), ((576, 1000), None)]
)
def test_the_largest_group_divides_every_row(lengths: tuple[int, ...], size: int | None) -> None:
    assert group_size(lengths) == size


def test_a_rounding_that_groups_do_not_divide_is_refused_with_the_next_one() -> None:
    assert "send an `output.round_to` of 64" in refusal(request("w4a16", ["ffn"], round_to=40))
    check_precisions(request("w4a16", ["ffn"], round_to=64), FAMILIES["llama"], CONFIG, LENGTHS)
    check_precisions(request("w8a8", ["ffn"], round_to=40), FAMILIES["llama"], CONFIG, LENGTHS)


def test_a_plan_names_every_precision() -> None:
    found = planned_precisions(request("int8", ["ffn"], round_to=40), FAMILIES["llama"], CONFIG, LENGTHS)
    assert [each.possible for each in found] == [True, True, False]
    assert found[2].reason is not None
    assert "an `output.round_to` of 64" in found[2].reason
    wide = planned_precisions(request("int8", ["ffn"]), FAMILIES["llama"], CONFIG, LENGTHS)
    assert [(each.possible, each.group_size) for each in wide] == [(True, None), (True, None), (True, 64)]


def test_rows_of_the_dense_model_count() -> None:
    assert "have 100: ask for `int8` or `w8a8`" in refusal(request("w4a16", ["ffn"]), (128, 100))


def test_heads_are_removed_in_whole_groups() -> None:
    check_precisions(request("w4a16", ["heads"]), FAMILIES["llama"], CONFIG, LENGTHS)  # 2 heads of 32 stay together
    narrow = CONFIG | {"head_dim": 8}
    with pytest.raises(UnsupportedFormat, match="have 16"):
        check_precisions(request("w4a16", ["heads"]), FAMILIES["llama"], narrow, LENGTHS)


@pytest.mark.parametrize(
    ("precision", "family", "reason"),
    [
        ("int8", "gpt2", "not stored as those of linear modules"),
        ("int8", "mixtral", "experts"),
        ("w8a8", "bert", "for vLLM"),
        ("w4a16", "t5", "for vLLM"),
    ],
)
def test_families_without_linear_modules_or_without_vllm_are_refused(precision: str, family: str, reason: str) -> None:
    assert reason in refusal(request(precision, ["layers"]), family=family)
