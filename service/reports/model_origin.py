"""The model and the adapters that a slim model was made from, over all jobs of its lineage."""

from typing import NamedTuple

from service.contract.answers.report import Report


class Root(NamedTuple):
    """The model that was slimmed first, by this job or an earlier one."""

    uri: str
    revision: str | None


def root(report: Report) -> Root:
    """The model that was slimmed first."""
    if report.lineage:
        return Root(report.lineage[0].model, report.lineage[0].revision)
    return Root(report.request.model.uri, report.request.model.revision)


def last_part(uri: str) -> str:
    """The last part of a URI: the name of what it leads to."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def merged_adapters(report: Report) -> list[str]:
    """The URIs of the adapters that were merged, in order."""
    uris = [*(ancestor.adapter_uri for ancestor in report.lineage), report.request.model.adapter_uri]
    return [uri for uri in uris if uri]
