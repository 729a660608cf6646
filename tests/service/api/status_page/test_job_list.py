"""The list of jobs in a real browser."""

from service.contract.answers.job import JobError, Progress, Stage
from service.contract.ids import DEFAULT_TENANT
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support.browser import Tab
from tests.support.status_page import ROWS, new_job


def test_empty_list_links_to_the_form(page: str, tab: Tab) -> None:
    tab.open(page)
    tab.wait_for("document.querySelector('.empty')?.innerText.includes('No job yet')")
    assert "no live worker" in tab.wait_for("document.getElementById('health').innerText")
    assert tab.complaints() == []


def test_list_follows_a_running_job_to_its_end(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    job = new_job(job_store)
    lease = job_store.lease(DEFAULT_TENANT, job.id, 1, "the test")
    job_store.set_stage(lease, Stage.attribute, Progress(fraction=0.25))
    tab.open(page)
    tab.wait_for("document.querySelector('progress')?.value == 0.25")
    tab.run("document.querySelector('tbody a').focus()")
    job_store.progress(lease, Progress(fraction=0.5, done=52, total=128, unit="examples", eta_seconds=12.4))
    tab.wait_for("document.querySelector('progress').value == 0.5")
    assert "52 of 128 examples · 12 s left" in tab.text()
    assert tab.run("document.activeElement === document.querySelector('tbody a')")
    job_store.fail(lease, JobError(code="unknown_label", message="line 17 has the label 'neutral'"))
    tab.wait_for("document.querySelector('.status')?.dataset.status == 'failed'")
    assert "line 17 has the label 'neutral'" in tab.text()
    assert tab.complaints() == []


def test_filters_of_the_list_are_part_of_the_address(page: str, tab: Tab, job_store: JobStore) -> None:
    new_job(job_store, tags={"team": "search"})
    cancelled = new_job(job_store, tags={"team": "ads"})
    job_store.cancel(DEFAULT_TENANT, cancelled.id)
    tab.open(page)
    tab.wait_for(f"{ROWS} == 2")
    tab.run("document.querySelector('[name=status]').value = 'cancelled'")
    tab.run("document.querySelector('.filters').requestSubmit()")
    tab.wait_for(f"{ROWS} == 1 && document.querySelector('tbody tr').dataset.job == '{cancelled.id}'")
    assert tab.run("location.hash") == "#/?status=cancelled"
    tab.open(f"{page}#/?tag=team%3Asearch")
    tab.wait_for(f"{ROWS} == 1 && document.querySelector('tbody tr').dataset.job != '{cancelled.id}'")
    tab.open(f"{page}#/?tag=team%3Anobody")
    tab.wait_for("document.querySelector('.empty')?.innerText.includes('No job matches')")


def test_second_page_of_the_list_is_shown_on_demand(page: str, tab: Tab, job_store: JobStore) -> None:
    for _ in range(21):
        new_job(job_store)
    tab.open(page)
    tab.wait_for(f"{ROWS} == 20")
    tab.run("[...document.querySelectorAll('button')].find((button) => button.innerText == 'Show more').click()")
    assert tab.wait_for(f"{ROWS} == 21")
