"""All views in a real browser: API key, keyboard and narrow screens."""

import re
from pathlib import Path

import pytest
from redis import Redis

from service.contract.answers.job import Progress, Stage
from service.contract.ids import DEFAULT_TENANT
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys
from tests.support.browser import Tab
from tests.support.status_page import ROWS, finished_job, new_job


def test_api_key_is_requested_and_kept_in_memory_only(page: str, tab: Tab, job_store: JobStore, redis: Redis) -> None:
    _, key = ApiKeys(redis).create()
    job = new_job(job_store)
    tab.open(f"{page}#/jobs/{job.id}")
    tab.wait_for("document.getElementById('key-dialog')?.open")
    tab.type(key)
    tab.press("Enter")
    tab.wait_for("document.querySelector('.status')?.dataset.status == 'queued'")
    lease = job_store.lease(DEFAULT_TENANT, job.id, 1, "the test")
    job_store.set_stage(lease, Stage.attribute, Progress(fraction=0.5))
    tab.wait_for("document.querySelector('progress')?.value == 0.5")
    assert tab.run("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert key not in tab.run("document.documentElement.outerHTML + location.href")
    tab.call("Page.reload")
    tab.wait_for("document.getElementById('key-dialog')?.open")


def test_list_is_usable_by_keyboard(page: str, tab: Tab, job_store: JobStore) -> None:
    job = new_job(job_store)
    tab.open(page)
    tab.wait_for(f"{ROWS} == 1")
    tab.press("Tab")
    assert tab.run("document.activeElement.className") == "skip"
    for _ in range(20):
        tab.press("Tab")
        if tab.run("document.activeElement.closest('tbody') !== null"):
            break
    tab.press("Enter")
    tab.wait_for(f"location.hash == '#/jobs/{job.id}' && document.activeElement.tagName == 'H1'")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_views_fit_the_width_of_a_phone(
    page: str, tab: Tab, job_store: JobStore, storage: Storage, dark: bool, tmp_path: Path
) -> None:
    done, waiting = finished_job(job_store, storage), new_job(job_store, tags={"a-rather-long-key": "x" * 60})
    tab.resize(360, 740, dark=dark)
    views = {
        "#/": "tbody tr",
        f"#/jobs/{done.id}": "iframe",
        f"#/jobs/{waiting.id}": "progress",
        "#/new": "form.request",
    }
    for view, sign in views.items():
        tab.open(page + view)
        tab.wait_for(f"document.querySelector('{sign}') !== null")
        tab.run("document.querySelectorAll('details.expert').forEach((section) => (section.open = true))")
        assert tab.run("document.documentElement.scrollWidth") == 360, view
    colour = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", colour)[0]) < 128) is dark
