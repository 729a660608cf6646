"""Rows of a working directory that the command line uploads, and what the server has of them."""

from service.contract.answers.resources import Dataset, DatasetPage
from service.contract.ids import DEFAULT_TENANT
from service.jobs.record import JobRecord
from service.jobs.store import JobStore
from service.settings import Settings
from tests.support import http

ROWS = "text,label,title\na fine film,positive,Fine\ndull,negative,Dull\nso good,positive,Good\nno,negative,No\n"


def uploads(server: tuple[str, Settings]) -> list[Dataset]:
    """All data sets of the server, the newest first."""
    return DatasetPage.model_validate_json(http.get(f"{server[0]}/datasets").content).data


def only_job(job_store: JobStore) -> JobRecord:
    """The record of the one job that there is."""
    [record] = job_store.page(DEFAULT_TENANT).records
    return record
