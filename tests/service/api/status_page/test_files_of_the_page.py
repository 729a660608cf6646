"""The files of the status page: what is served, and what they refer to."""

import json
import re

from fastapi.testclient import TestClient

from service.api.routes.status_page import DIRECTORY
from service.contract.answers.job import Stage
from service.storage.row_formats import FORMATS


def test_content_security_policy_allows_neither_inline_nor_external_content(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self' 'sha256-")
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|https?://", answer.text)


def test_only_files_of_the_page_are_served(client: TestClient) -> None:
    files = [path for path in DIRECTORY.rglob("*") if path.suffix in (".js", ".css", ".svg")]
    names = [path.relative_to(DIRECTORY).as_posix() for path in files]
    assert len(names) > 10
    assert "form/form.js" in names
    assert {client.get(f"/pages/{name}").status_code for name in names} == {200}
    for name in ("report.html", "..%2fapp.py", "%2e%2e/app.py", "form/..%2f..%2fapp.py", "no.js", "%2fetc%2fpasswd"):
        assert client.get(f"/pages/{name}").status_code == 404


def test_job_page_lists_every_stage_in_order() -> None:
    [listed] = re.findall(r"const STAGES = (\[[^;]*\]);", (DIRECTORY / "job.js").read_text())
    assert json.loads(listed) == [stage.value for stage in Stage]


def test_form_uploads_the_formats_that_the_api_reads() -> None:
    [formats] = re.findall(r"const FORMATS = (\{[^;]*\});", (DIRECTORY / "form/upload.js").read_text())
    assert json.loads(formats) == {found.ending: found.media_types[0] for found in FORMATS}


def test_files_of_the_page_refer_to_no_other_server(client: TestClient) -> None:
    for path in DIRECTORY.rglob("*.[jc]s*"):
        assert not re.search(
            r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|\beval\(|localStorage|sessionStorage|cookie",
            path.read_text(),
        )
