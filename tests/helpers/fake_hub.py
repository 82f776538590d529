"""A Hugging Face hub of its own: takes repositories and commits over HTTP and keeps the files in memory."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub(ThreadingHTTPServer):
    """What was created and committed, and the token that is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, object]] = {}
        self.files: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def _answer(self, value: object, code: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer({"id": "team/model", "sha": "0" * 40, "siblings": [], "private": True})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer right":
            self._answer({"error": "wrong token"}, 401)
        elif self.path.endswith("/repos/create"):
            declared = json.loads(body)
            name = "/".join(filter(None, (declared.get("organization"), declared["name"])))
            self.server.repositories[name] = declared
            self._answer({"url": f"{self.server.address}/{name}"})
        elif "/preupload/" in self.path:
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            self._answer({"files": [each | {"shouldIgnore": False} for each in files]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            commit = f"{self.server.address}/team/model/commit/{'1' * 40}"
            self._answer({"commitUrl": commit, "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"errors": [], "warnings": []})


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Yields a hub that answers on this machine."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
