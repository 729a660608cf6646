"""Rows that plan and worker refuse by their number, whether they are inline or in a file."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from service.contract.errors import InvalidData
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from tests.support.pipeline_jobs import Deployment, write_rows


def check_last_row_is_refused(
    deployment: Deployment,
    task: Callable[..., dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    place: str,
    message: str,
    param: str,
) -> None:
    """Check that a plan refuses the last of inline rows, and a job that of rows in either place.

    `place` is "file" or "inline", `task` makes a task with the given calibration rows. The error must name `param`, or
    the source of the rows where that is "source".
    """
    source = {"rows": rows} if place == "inline" else {"uri": write_rows(deployment.root / "bad.jsonl", rows)}
    param = f"task.calibration.{'rows' if place == 'inline' else 'uri'}" if param == "source" else param
    request = deployment.request("bert", task(calibration=source))
    if place == "inline":
        with pytest.raises(InvalidData, match=message) as refused:
            plan(request, Access(deployment.storage, "default", local_paths=True))
        assert refused.value.message.startswith(f"row {len(rows)}")
        assert refused.value.param == param
        request, files = take_rows(request, "job")
        for dataset, lines in files.items():
            deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    with pytest.raises(InvalidData, match=message) as refused:
        deployment.run(request)
    assert f"line {len(rows)}" in refused.value.message
    assert refused.value.param == param
