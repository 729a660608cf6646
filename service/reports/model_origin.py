"""Which model a slim model comes from, over several jobs."""

from service.contract.report import Report


def root_uri(report: Report) -> str:
    """The URI of the model that was first slimmed, by this job or one before it."""
    return (report.lineage[0].model if report.lineage else report.request.model.uri).rstrip("/")


def base_name(report: Report) -> str:
    """The last part of that URI, which is the model's name."""
    return root_uri(report).rsplit("/", 1)[-1]


def merged_adapters(report: Report) -> list[str]:
    """The adapters that went into the model, in their order."""
    uris = [*(ancestor.adapter_uri for ancestor in report.lineage), report.request.model.adapter_uri]
    return [uri for uri in uris if uri]
