"""The names of metrics, in Python and in the JavaScript of the status page."""

import re

from service.api.routes.status_page import DIRECTORY
from service.reports.metric_names import NAMES, SHARES


def test_status_page_names_the_metrics_as_the_report_does() -> None:
    [block] = re.findall(r"const NAMES = \{\n(.*?)\n\};", (DIRECTORY / "words.js").read_text(), flags=re.DOTALL)
    objects = re.findall(r"\w+: \{(.*?)\}", block, flags=re.DOTALL)
    for content, names in zip(objects, NAMES.values(), strict=True):
        shown = {
            field: name.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
            for field, name in re.findall(r'(\w+): "([^"]*)"', content)
        }
        assert shown == {field: names[field].capitalize() for field in SHARES}
