"""The names of metrics, in Python and in the JavaScript of the status page."""

import re

from service.api.routes.status_page import DIRECTORY
from service.contract.options import TaskMetric
from service.reports.metric_names import LABELLED, SEVERAL, UNLABELLED, capitalised


def test_status_page_names_the_metrics_as_the_report_does() -> None:
    script = (DIRECTORY / "words.js").read_text()
    for block, names in (("NAMES", LABELLED), ("NAMES_OF_AGREEMENT", UNLABELLED)):
        [content] = re.findall(rf"const {block} = \{{\n(.*?)\n\}};", script, flags=re.DOTALL)
        shown = {
            metric: name.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
            for metric, name in re.findall(r'(\w+): "([^"]*)"', content)
        }
        assert shown == {metric: capitalised(names[TaskMetric(metric)]) for metric in shown}
        assert shown.keys() == {metric for metric in TaskMetric if names is LABELLED or metric in shown}
    assert capitalised(SEVERAL).replace("'", "\N{RIGHT SINGLE QUOTATION MARK}") in script


def test_every_metric_has_a_name_for_rows_without_labels() -> None:
    assert LABELLED.keys() == UNLABELLED.keys() == set(TaskMetric)
    assert UNLABELLED[TaskMetric.matthews].startswith(LABELLED[TaskMetric.matthews])
