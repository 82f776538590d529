"""A headless Chromium, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2/) of chromedriver.

Selenium would be a dependency of 12 MB, with programs for three systems that may look for drivers on the network; what
the tests need of the protocol is a few requests.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of a reference to an element
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Up": "\ue013", "Down": "\ue015", "Home": "\ue011"}
SWITCHES = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --force-color-profile=srgb
"""


def find_chromium() -> tuple[str, str] | None:
    """Returns the paths of Chromium and its driver; None where one is missing."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class Browser:
    """A window of a new profile; it ends with the `with` block."""

    def __init__(self, folder: Path, *, script: bool = True) -> None:
        """Starts it with a profile and a folder for downloads in `folder`; `script`: pages may run scripts."""
        programs = find_chromium()
        assert programs is not None
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self._driver = subprocess.Popen(
            [programs[1], "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._driver.stdout is not None
        port = next(
            line.rsplit(" ", 1)[1].strip(". \n")
            for line in self._driver.stdout
            if "started successfully on port" in line
        )
        self._address = f"http://127.0.0.1:{port}"
        preferences = {"download.default_directory": str(self.downloads)}
        if not script:
            preferences["profile.managed_default_content_settings.javascript"] = 2  # type: ignore[assignment]
        options = {
            "binary": programs[0],
            "args": [*SWITCHES.split(), f"--user-data-dir={folder / 'profile'}"],
            "prefs": preferences,
        }
        capabilities = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"script": 120_000, "pageLoad": 120_000},
        }
        answer = self._post("/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{answer['sessionId']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._request("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(20)
            if self._driver.stdout:
                self._driver.stdout.close()

    def _request(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None

    def _post(self, path: str, body: object) -> Any:
        return self._request("POST", path, body)

    def open(self, address: str) -> None:
        """Opens an address, and waits until it is loaded."""
        self._post(f"{self._session}/url", {"url": address})

    def run(self, script: str, *arguments: object) -> Any:
        """Returns what the body of a function returns."""
        return self._post(f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, expression: str) -> Any:
        """Returns the value of an expression as soon as it is true."""
        for _ in range(400):
            if value := self.run(f"return {expression}"):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    def devtools(self, command: str, **parameters: object) -> Any:
        """Returns the answer to a command of the DevTools protocol."""
        return self._post(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Sets the size of the window's contents in pixels."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    def set_dark(self, *, dark: bool) -> None:
        """Chooses what the page is told of the reader's colours."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def press(self, *keys: str) -> None:
        """Presses keys one after another, by name or letter, where the focus is."""
        actions = []
        for key in keys:
            actions += [{"type": kind, "value": KEYS.get(key, key)} for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keys", "actions": actions})

    def point(self, x: float, y: float) -> None:
        """Moves the pointer to a place of the window."""
        self._mouse(self._move(x, y))

    def click(self, x: float, y: float) -> None:
        """Clicks at a place of the window."""
        self._mouse(self._move(x, y), self._button("Down"), self._button("Up"))

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Presses the button at a place, and releases it at another one."""
        middle = self._move((x + to_x) / 2, (y + to_y) / 2)
        self._mouse(self._move(x, y), self._button("Down"), middle, self._move(to_x, to_y), self._button("Up"))

    @staticmethod
    def _move(x: float, y: float) -> dict[str, object]:
        return {"type": "pointerMove", "duration": 30, "x": round(x), "y": round(y), "origin": "viewport"}

    @staticmethod
    def _button(direction: str) -> dict[str, object]:
        return {"type": f"pointer{direction}", "button": 0}

    def _mouse(self, *actions: dict[str, object]) -> None:
        self._act({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": list(actions)})

    def _act(self, source: dict[str, object]) -> None:
        self._post(f"{self._session}/actions", {"actions": [source]})

    def shoot(self, file: Path, *, whole: bool = False) -> None:
        """Writes a picture of the window, or of the whole page."""
        answer = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def messages(self) -> list[str]:
        """Returns what the page wrote to the console since the last call, errors and warnings of the browser too."""
        return [entry["message"] for entry in self._post(f"{self._session}/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Returns the addresses that were asked for since the last call."""
        entries = self._post(f"{self._session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]
