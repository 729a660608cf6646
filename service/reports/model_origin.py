"""The model and the adapters that a slim model was made from, over all jobs of its lineage."""

from service.contract.report import Report


def root_uri(report: Report) -> str:
    """The URI of the model that was slimmed first, by this job or an earlier one."""
    return (report.lineage[0].model if report.lineage else report.request.model.uri).rstrip("/")


def base_name(report: Report) -> str:
    """The name of that model: the last part of its URI."""
    return root_uri(report).rsplit("/", 1)[-1]


def merged_adapters(report: Report) -> list[str]:
    """The URIs of the adapters that were merged, in order."""
    uris = [*(ancestor.adapter_uri for ancestor in report.lineage), report.request.model.adapter_uri]
    return [uri for uri in uris if uri]
