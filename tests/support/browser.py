"""A headless Chromium, driven over its DevTools protocol through a pair of pipes: no driver, no port, no package."""

import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.waiting import DEADLINE_SECONDS

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers have no user namespaces
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
ANSWER_SECONDS = 120


def find_browser() -> str | None:
    """The path of an installed Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """The two pipes of a running browser; one message is one JSON object that ends with a NUL."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer = b""
        self._last_id = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of a command. Fails on an error answer, or when there is none in time."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        os.write(self._commands, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last_id:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + ANSWER_SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0, end - time.monotonic()))
            assert ready, f"the browser did not answer within {ANSWER_SECONDS} s"
            piece = os.read(self._answers, 2**20)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Tab:
    """One page in a context of its own: nothing is shared with other tabs."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited; fails when it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, deadline_seconds: float = DEADLINE_SECONDS) -> Any:
        """The first value of `expression` that counts as true (an element is True); fails when none does in time."""
        end = time.monotonic() + deadline_seconds
        while not (value := self.run(f"(found => found?.nodeType ? true : found)({expression})")):
            assert time.monotonic() < end, f"not in time: {expression}\n{self.text()}\n{self.complaints()}"
            time.sleep(0.05)
        return value

    def text(self) -> str:
        """What a reader sees."""
        return str(self.run("document.body?.innerText ?? ''"))

    def press(self, *keys: str) -> None:
        """Press keys one after the other, such as "Tab" or "Enter"."""
        for key in keys:
            extra: dict[str, Any] = {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" else {}
            extra |= {"windowsVirtualKeyCode": 9} if key == "Tab" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **extra)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, **extra)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def complaints(self) -> list[str]:
        """Errors and warnings that the browser has logged: uncaught exceptions, refused content, failed requests."""
        self.run("0")  # what came before it has arrived by its answer
        mine = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [text for event in mine if (text := _complaint(event["method"], event["params"]))]

    def requests(self) -> list[dict[str, Any]]:
        """Every request that the page has sent."""
        mine = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [event["params"]["request"] for event in mine if event["method"] == "Network.requestWillBeSent"]


def _complaint(method: str, params: dict[str, Any]) -> str | None:
    if method == "Runtime.exceptionThrown":
        return json.dumps(params["exceptionDetails"])
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        return f"{params['entry']['text']} {params['entry'].get('url', '')}"
    return None


@contextmanager
def browsing(path: str, profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in the directory `profile`; its whole process group ends with the context."""
    (their_commands, commands), (answers, their_answers) = os.pipe(), os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, their_commands, 3), (os.POSIX_SPAWN_DUP2, their_answers, 4)]
    arguments = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    log = profile.with_name("browser.log")
    actions.append((os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT, 0o600))  # type: ignore[arg-type]
    process = os.posix_spawn(path, arguments, os.environ, file_actions=actions, setpgroup=0)
    os.close(their_commands)
    os.close(their_answers)
    try:
        yield Browser(commands, answers)
    finally:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(commands)
        os.close(answers)
