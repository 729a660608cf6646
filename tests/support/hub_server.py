"""A stand-in for a hub: the part of its API that makes repositories and commits files, large ones by Git LFS.

It does not speak Xet, the protocol that the client prefers for large files: tests turn that off.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class Hub:
    """What the hub has: repositories with their files, and uploaded contents by their SHA-256."""

    url: str = ""
    may_write: bool = True
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """(status, JSON) of the answer to a request with the right token."""
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":  # the metadata of a model card
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/upload/"):
            self.uploads[path.removeprefix("/upload/")] = body
            return 200, {}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._upload(each) for each in json.loads(body)["objects"]]}
        repository, _, action = path.removeprefix("/api/models/").partition("/")
        name, _, action = action.partition("/")
        if action == "preupload/main":
            return 200, {"files": [self._mode(each) for each in json.loads(body)["files"]]}
        if action == "commit/main":
            return self._commit(f"{repository}/{name}", [json.loads(line) for line in body.splitlines()])
        return 404, {"error": path}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        if not self.may_write:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        self.private.setdefault(name, asked.get("visibility") == "private")
        self.files.setdefault(name, {})
        return 200, {"url": f"{self.url}/{name}"}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        return asked | {"actions": {"upload": {"href": f"{self.url}/upload/{asked['oid']}"}}}

    def _mode(self, asked: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if asked["path"].endswith(".safetensors") else "regular"
        return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        for line in lines:
            entry = line["value"]
            if line["key"] == "file":
                self.files[repository][entry["path"]] = base64.b64decode(entry["content"])
            elif line["key"] == "lfsFile":
                self.files[repository][entry["path"]] = self.uploads[entry["oid"]]
        return 200, {"commitUrl": f"{self.url}/{repository}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running hub."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_known = self.path.startswith("/upload/") or self.headers.get("Authorization") == f"Bearer {TOKEN}"
            status, answer = hub.answer(self.path, body) if is_known else (401, {"error": "Invalid token"})
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
