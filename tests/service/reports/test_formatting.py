"""Numbers as text, in Python and in the JavaScript of the status page."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from service.api.routes.status_page import DIRECTORY
from service.contract.answers.result import Estimate
from service.reports import formatting
from service.reports.formatting import (
    change,
    count,
    decimal,
    duration,
    interval,
    milliseconds,
    percent,
    points,
    signed,
    size,
    span,
)
from tests.support.browser import Browser, Tab

SHARES = (0, 0.0004, 0.0005, 0.0625, 0.1, 0.3041, 0.5, 0.99949, 0.9995, 1, 1.25)
COUNTS = (0, 7, 999, 1000, 1234, 9999, 10000, 12500, 999_949, 1_250_000, 134_515_008, 999_950_000, 7_241_732_096)
SECONDS = (0, 0.05, 0.25, 9.94, 9.95, 10.5, 59.4, 59.5, 60, 75.2, 3599.5, 3600, 7261, 90_000)
PAIRS = ((4, 3), (3, 4), (0, 3), (1, 1), (8, 7), (16, 15))
ESTIMATE = Estimate(value=0.892, low=0.8225, high=0.936)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.302), "30.2 %"),
        (percent(0.302, 0), "30 %"),
        (percent(0.0625), "6.3 %"),
        (span(ESTIMATE), "82.3 % to 93.6 %"),
        (interval(ESTIMATE), "89.2 % (82.3 % to 93.6 %)"),
        (change((4, 3)), "−25.0 %"),
        (change((4, 5)), "+25.0 %"),
        (change((0, 5)), ""),
        (count(9999), "9,999"),
        (count(10_000), "10.0 k"),
        (count(134_515_008), "134.5 M"),
        (size(999), "999 B"),
        (size(269_030_016), "269.0 MB"),
        (milliseconds(185.25), "185.3 ms"),
        (duration(9.94), "9.9 s"),
        (duration(75.2), "1 min 15 s"),
        (duration(7261), "2 h 1 min"),
        (points((0.90, 0.88)), "−2.0 points"),
        (points((0.88, 0.90)), "+2.0 points"),
        (points((0.9, 0.9)), "0.0 points"),
        (decimal(-0.1234), "−0.123"),
        (signed(0.1234), "+0.123"),
        (signed(-0.1234), "−0.123"),
    ],
)
def test_numbers_are_formatted(text: str, expected: str) -> None:
    assert text == expected.replace(" %", "\N{NO-BREAK SPACE}%")


def test_status_page_formats_numbers_as_the_report_does(browser: Browser) -> None:
    calls: list[tuple[str, list[Any]]] = [
        *(("percent", [share]) for share in SHARES),
        *(("percent", [share, 0]) for share in SHARES),
        *((name, [number]) for name in ("count", "size") for number in COUNTS),
        *((name, [number]) for name in ("duration", "milliseconds") for number in SECONDS),
        *(("change", list(pair)) for pair in PAIRS),
        *((name, [ESTIMATE.model_dump()]) for name in ("span", "interval")),
    ]
    module = base64.b64encode((DIRECTORY / "formatting.js").read_bytes()).decode()
    found = Tab(browser).run(
        f"import('data:text/javascript;base64,{module}')"
        f".then(formatting => {json.dumps(calls)}.map(([name, numbers]) => formatting[name](...numbers)))"
    )
    assert found == [python_text(name, numbers) for name, numbers in calls]


def python_text(name: str, numbers: list[Any]) -> str:
    """What the Python function of that name gives for the arguments of the JavaScript function."""
    function: Callable[..., str] = getattr(formatting, name)
    if name == "change":
        return function(tuple(numbers))
    if name in ("span", "interval"):
        return function(Estimate.model_validate(numbers[0]))
    return function(*numbers)
