"""Options that have no effect beside the other options are refused."""

from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import (
    InvalidRequest,
)
from service.contract.request.job_request import JobRequest
from service.planning.admission import check_request
from service.sources.access import Access
from tests.support.job_requests import request_body
from tests.support.planning import refuse


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ({"normalisation": "mean"}, "normalisation"),
        ({"criterion": "wanda", "objective": "margin", "repair": "none"}, "objective"),
        ({"criterion": "second_moment", "token_reduction": "max"}, "token_reduction"),
        ({"criterion": "gisp", "sign": "absolute"}, "sign"),
        ({"criterion": "flap", "example_reduction": "sum"}, "example_reduction"),
        ({"protect_first": 1}, "protect_first"),
        ({"protect_last": 1, "scope": "global"}, "protect_last"),
        ({"seed": 5}, "seed"),
        ({"union": "max"}, "union"),
        ({"criterion": "magnitude", "steps": 9}, "steps"),
        ({"criterion": "random", "steps": 9}, "steps"),
        ({"units": ["layers"], "repair": "least_squares"}, "repair"),
        ({"units": ["layers"], "repair": "bias"}, "repair"),
    ],
)
def test_an_option_without_effect_is_refused(
    tmp_path: Path, access: Access, method: dict[str, Any], option: str
) -> None:
    body = request_body(tmp_path, method=method)
    assert "has an effect only" in refuse(body, access, InvalidRequest, f"method.{option}")


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ({"selectivity": "ratio"}, "selectivity"),
        ({"criterion": "wanda", "general_weight": 0.5}, "general_weight"),
        ({"criterion": "attribution", "example_reduction": "sum", "general_weight": 0.5}, "general_weight"),
        ({"general_rule": "shared_exclusive"}, "general_rule"),
    ],
)
def test_an_option_of_general_rows_without_effect_is_refused(
    tmp_path: Path, access: Access, method: dict[str, Any], option: str
) -> None:
    body = request_body(tmp_path, method=method)
    body["task"] = body["task"] | {"general": {"rows": [{"text": "a plain text"}] * 5}}
    assert "has an effect only" in refuse(body, access, InvalidRequest, f"method.{option}")


def test_the_seed_has_an_effect_on_a_recovery(tmp_path: Path, access: Access) -> None:
    body = request_body(tmp_path, method={"seed": 5}, recovery={"rank": 2})
    body["task"] = body["task"] | {"calibration": {"uri": "s3://far/rows.jsonl"}}
    check_request(JobRequest.model_validate(body), access)


@pytest.mark.parametrize(
    ("method", "output"),
    [
        ({"criterion": "attribution", "scope": "global", "sign": "absolute"}, {}),
        ({"scope": "global", "normalisation": "none", "protect_first": 1}, {"layout": "per_layer"}),
        ({"criterion": "random", "seed": 5}, {}),
        ({"criterion": "magnitude", "repair": "least_squares_layerwise", "objective": "margin"}, {}),
        ({"controls": True, "seed": 5}, {}),
        ({"criterion": "magnitude", "scope": "global", "steps": 9}, {}),
        ({"units": ["layers"]}, {}),
        ({"units": ["layers"], "repair": "none"}, {}),
        ({"units": ["layers"], "protect_last": 1}, {}),
        ({"units": ["ffn", "layers"], "scope": "global", "repair": "least_squares"}, {"layout": "per_layer"}),
    ],
)
def test_an_option_with_an_effect_is_accepted(
    tmp_path: Path, access: Access, method: dict[str, Any], output: dict[str, Any]
) -> None:
    body = request_body(tmp_path, method=method, output=output)
    assert check_request(JobRequest.model_validate(body), access).family.model_type == "llama"
