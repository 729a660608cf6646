"""The lineage of a model: the jobs that made it."""

import json
from typing import Any

from service.contract.answers.report import Ancestor
from service.sources.job_checkpoints import JobModel
from service.storage.artifact_names import MODEL


def lineage(model: JobModel) -> list[Ancestor]:
    """The jobs that made the model of a job, oldest first, ending with that job; read from the report of the job."""
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
    """Ratio, parameters and widths of the checkpoint in `directory`: the result's own, or one of a sweep."""
    for point in result.get("curve", []):
        if point.get("artifact") == directory != MODEL:
            parameters = {"dense": result["parameters"]["dense"], "slim": point["parameters"]}
            return {"ratio": point["ratio"], "parameters": parameters, "widths": []}
    return {name: result[name] for name in ("ratio", "parameters", "widths")}
