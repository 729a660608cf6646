"""The comparison of jobs in a real browser: choice, table, plot and export."""

import csv
import io

from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support.browser import Tab
from tests.support.compared_jobs import DIGESTS, compared_job
from tests.support.status_page import ROWS, new_job

TABLE = "document.querySelector('.compared tbody')"
FILLED = "[...document.querySelectorAll('.plot g[data-frontier=true]')].map((point) => point.dataset.mark)"


def test_jobs_of_the_list_are_compared(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    first, second = compared_job(job_store, storage, 7, 0.45), compared_job(job_store, storage, 5, 0.48)
    waiting = new_job(job_store)
    tab.open(page)
    tab.wait_for(f"{ROWS} == 3")
    assert tab.run(f"document.querySelector('[data-job=\"{waiting.id}\"] .choose')") is None
    button = "[...document.querySelectorAll('button')].find((button) => button.innerText == 'Compare')"
    assert tab.run(f"{button}.disabled") is True
    tab.run("document.querySelectorAll('.choose').forEach((box) => box.click())")
    tab.run(f"{button}.click()")
    tab.wait_for(f"{TABLE}?.rows.length == 3")
    assert tab.run("location.hash") == f"#/compare?jobs={first},{second}"
    shown = tab.run(f"{TABLE}.innerText").replace("\N{NO-BREAK SPACE}", " ")
    assert "48.0 % (38.0 % to 58.0 %)" in shown
    assert "−50.0 %" in shown
    assert tab.complaints() == []


def test_plot_marks_the_frontier_of_the_chosen_size(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    ids = [compared_job(job_store, storage, size, value) for size, value in ((7, 0.45), (5, 0.48), (3, 0.2))]
    tab.open(f"{page}#/compare?jobs={','.join(ids)}")
    tab.wait_for("document.querySelectorAll('.plot circle').length == 4")
    assert tab.run(FILLED) == ["D", "2", "3"]
    marked = f"[...{TABLE}.rows].map((row) => row.dataset.frontier)"
    assert tab.run(marked) == ["true", "false", "true", "true"]
    at = "[...document.querySelectorAll('.plot circle')].map((circle) => Number(circle.getAttribute('cx')))"
    dense, *slim = tab.run(at)
    assert slim == sorted(slim, reverse=True)
    assert dense > slim[0]
    title = tab.run("document.querySelector('.plot [data-mark=\"2\"] title').textContent")
    assert title.replace("\N{NO-BREAK SPACE}", " ") == "2: 5, 48.0 % (38.0 % to 58.0 %)"
    tab.run("document.querySelector('[name=by]').value = 'latency_ms'")
    tab.run("document.querySelector('[name=by]').dispatchEvent(new Event('change'))")
    tab.wait_for("document.querySelector('.plot svg')?.getAttribute('aria-label').includes('latency')")
    assert tab.run("location.hash").endswith("&by=latency_ms")
    assert "1.0 ms" in tab.run("document.querySelector('.plot [data-mark=\"2\"] title').textContent")


def test_comparison_is_exported_as_csv(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    ids = [compared_job(job_store, storage, 7, 0.45), compared_job(job_store, storage, 5, 0.5)]
    tab.open(f"{page}#/compare?jobs={','.join(ids)}")
    tab.wait_for("document.querySelector('.plot circle')")
    tab.run("void (URL.createObjectURL = (blob) => ((window.saved = blob.text()), 'blob:none'))")
    tab.run("[...document.querySelectorAll('button')].find((button) => button.innerText == 'Export as CSV').click()")
    dense, *slim = csv.DictReader(io.StringIO(tab.wait_for("window.saved")))
    assert (dense["job_id"], dense["parameters"], dense["frontier_bytes"]) == ("", "10", "false")
    assert [line["job_id"] for line in slim] == ids
    assert [(line["parameters"], line["value"], line["metric"]) for line in slim] == [
        ("7", "0.45", "accuracy"),
        ("5", "0.5", "accuracy"),
    ]


def test_comparison_fits_the_width_of_a_phone(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    job_id = compared_job(job_store, storage, 7, 0.45, request={"tags": {"a-rather-long-key": "x" * 60}})
    tab.resize(360, 740)
    tab.open(f"{page}#/compare?jobs={job_id}")
    tab.wait_for("document.querySelector('.plot circle')")
    assert tab.run("document.documentElement.scrollWidth") == 360


def test_jobs_that_cannot_be_compared_show_the_problem(
    page: str, tab: Tab, job_store: JobStore, storage: Storage
) -> None:
    ids = [
        compared_job(job_store, storage, 7, 0.45),
        compared_job(job_store, storage, 5, 0.4, digests=DIGESTS | {"model": "d" * 64}),
    ]
    tab.open(f"{page}#/compare?jobs={','.join(ids)}")
    assert "different models" in tab.wait_for("document.querySelector('.problem')?.innerText")
