"""Headless Chromium through chromedriver's HTTP interface, with what the standard library has."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing but this machine resolves: a page that asks the network for anything has an error in its console.
SWITCHES = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # fmt: skip


def missing() -> str | None:
    """Return why there is no browser to test with; None if there is one."""
    if shutil.which("chromedriver") is None:
        return "no chromedriver on PATH (Debian: chromium-driver)"
    if not any(map(shutil.which, BROWSERS)):
        return f"none of {', '.join(BROWSERS)} on PATH"
    return None


class Browser:
    """One window; `errors` are what the console said since the last call."""

    def __init__(self, address: str) -> None:
        self._address = address
        binary = next(path for path in map(shutil.which, BROWSERS) if path)
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": binary, "args": SWITCHES},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        answer = self._ask("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._address += f"/session/{answer['sessionId']}"

    def open(self, page: Path | str, anchor: str = "") -> None:
        self._ask("/url", {"url": (page if isinstance(page, str) else page.resolve().as_uri()) + anchor})

    def shape(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Size of the view in CSS pixels, and the colours that the reader prefers."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        wish = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[wish])

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a function body returns."""
        return self._ask("/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *arguments: Any, seconds: float = 30) -> Any:
        """Return what a function body returns as soon as it returns something."""
        until = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            if time.monotonic() > until:
                raise TimeoutError(f"after {seconds} seconds still nothing from: {script}")
            time.sleep(0.1)
        return found

    def press(self, key: str, *, control: bool = False) -> None:
        """Press a key, as the keyboard sends it."""
        text = {} if control or len(key) > 1 else {"text": key}
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, modifiers=2 * control, **text)

    def click(self, element: str, *arguments: Any, seconds: float = 30) -> None:
        """Press and release the mouse over what a function body returns, as soon as it is there and shown."""
        place = f"""
            const found = (() => {{ {element} }})()
            if (!found) return null
            found.scrollIntoView({{ block: 'center' }})
            const box = found.getBoundingClientRect()
            return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null
        """
        x, y = self.wait(place, *arguments, seconds=seconds)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def command(self, name: str, **parameters: Any) -> Any:
        return self._ask("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self._ask("/se/log", {"type": "browser"})]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        taken = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        self._ask("", None, method="DELETE")

    def _ask(self, path: str, content: Any, method: str = "POST") -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self._address + path, body, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Yield a browser for the time of the block."""
    port = free_port()
    with subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL) as driver:
        try:
            wait_for(port)
            window = Browser(f"http://127.0.0.1:{port}")
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(port: int, seconds: float = 30) -> None:
    """Wait until somebody listens on `port` of this machine."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port}")
