"""The jobs that a model has been through before this one."""

import json
from typing import Any

from service.contract.report import Ancestor
from service.sources.job_checkpoints import MODEL, JobModel


def lineage(model: JobModel) -> list[Ancestor]:
    """The jobs that led to the model of a job, the first one first, that job the last; read from its report."""
    report = json.loads(model.report())
    source = report["request"]["model"]
    parent = Ancestor(
        job_id=model.job_id,
        model=source["uri"],
        revision=source.get("revision"),
        adapter_uri=source.get("adapter_uri"),
        task=" + ".join(report.get("tasks", {})) or report["task"].get("name") or report["task"].get("preset"),
        **_removed(report["result"], model.directory),
    )
    return [*(Ancestor.model_validate(entry) for entry in report.get("lineage", [])), parent]


def _removed(result: dict[str, Any], directory: str) -> dict[str, Any]:
    """What the checkpoint in `directory` lacks: the result's own, or one point of a sweep."""
    for point in result.get("curve", []):
        if point.get("artifact") == directory != MODEL:
            parameters = {"dense": result["parameters"]["dense"], "slim": point["parameters"]}
            return {"ratio": point["ratio"], "parameters": parameters, "widths": []}
    return {name: result[name] for name in ("ratio", "parameters", "widths")}
