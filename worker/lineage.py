"""The jobs that a model has been through before this one."""

import json

from service.job_models import JobModel
from service.schemas import Ancestor


def lineage(model: JobModel) -> list[Ancestor]:
    """The jobs that led to the model of a job, the first one first, that job the last; read from its report."""
    report = json.loads(model.report())
    parent = Ancestor(
        job_id=model.job_id,
        model=report["request"]["model"]["uri"],
        task=report["task"].get("name") or report["task"].get("preset"),
        **{name: report["result"][name] for name in ("ratio", "parameters", "widths")},
    )
    return [*(Ancestor.model_validate(entry) for entry in report.get("lineage", [])), parent]
