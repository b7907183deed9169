"""A headless Chromium, driven through its debugging protocol: clicks, texts, and everything that it complains of."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_START_SECONDS = 60.0


class Browser:
    """One page of a browser that runs until the block ends."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            profile = tempfile.TemporaryDirectory(prefix="kfp-llm-batch-chromium-", ignore_cleanup_errors=True)
            self._profile = Path(started.enter_context(profile))
            self._process = started.enter_context(self._running())
            self._connection = started.enter_context(self._connected())
            self._number = 0
            self.events: list[dict[str, Any]] = []
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
            self._started = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.close()

    def open(self, path: Path) -> None:
        """Load a file and wait until it is there."""
        self.events.clear()
        self._call("Page.navigate", url=path.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.evaluate("1")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a mouse does."""
        box = self.evaluate(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); node.scrollIntoView();"
            " const box = node.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def unfold(self, selector: str) -> None:
        """Click on a summary and wait for what it shows, which the page makes a moment later."""
        self.click(f"{selector} summary")
        deadline = time.monotonic() + _START_SECONDS
        while not self.evaluate(f"document.querySelector({json.dumps(selector)}).childNodes.length > 1"):
            assert time.monotonic() < deadline, f"{selector} shows nothing"

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        self.click(selector)
        self._call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list."""
        self.evaluate(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); node.value = {json.dumps(value)};"
            " node.dispatchEvent(new Event('change')); })()"
        )

    def resize(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Another size of the window, and the user's taste."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        taste = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[taste])

    def screenshot(self, path: Path) -> None:
        """A picture of the window."""
        found = self._call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Errors of the console, exceptions, and what the policy refused."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Addresses that were asked for."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    @contextlib.contextmanager
    def _running(self) -> Iterator[subprocess.Popen[bytes]]:
        assert CHROMIUM
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        arguments += ["--remote-debugging-port=0", f"--user-data-dir={self._profile}", "about:blank"]
        with subprocess.Popen([CHROMIUM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                process.terminate()

    def _connected(self) -> contextlib.AbstractContextManager[ClientConnection]:
        port_file, deadline = self._profile / "DevToolsActivePort", time.monotonic() + _START_SECONDS
        while not (port_file.exists() and "\n" in port_file.read_text()):
            assert self._process.poll() is None, "Chromium ended"
            assert time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.1)
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_START_SECONDS) as answer:
            pages = [target for target in json.loads(answer.read()) if target["type"] == "page"]
        return connect(pages[0]["webSocketDebuggerUrl"], max_size=None, open_timeout=_START_SECONDS)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message: dict[str, Any] = json.loads(self._connection.recv(timeout=_START_SECONDS))
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)
