"""Docker's Engine API as far as `docker run` and `docker login` need it to say what they want: it writes that down."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on a socket. `requests` holds (method, path without version, body) of each request.

    `images` are the names of those that it has.
    """

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Request)
        self.requests: list[tuple[str, str, bytes]] = []
        self.images = ["distcls"]

    def __enter__(self) -> Engine:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def asked(self, path: str) -> dict[str, Any]:
        """The body of the request to a path."""
        return json.loads(next(body for _, at, body in self.requests if at == path))


class Request(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = "/" + self.path.split("?")[0].split("/", 2)[2] if self.path.startswith("/v1.") else self.path
        self.server.requests.append((self.command, path, body))
        if path == "/auth":
            self._answer(200, {"Status": "Login Succeeded"})
        elif path == "/containers/create":
            self._answer(400, {"message": "this engine only writes down what it is asked for"})
        elif path.startswith("/images/") and path.split("/")[2] not in self.server.images:
            self._answer(404, {"message": f"No such image: {path.split('/')[2]}"})
        else:
            self._answer(200, {"ApiVersion": "1.47"})

    do_POST = do_HEAD = do_GET

    def _answer(self, status: int, value: dict[str, str]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Api-Version", "1.47")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "docker"

    def log_message(self, format: str, *words: object) -> None:
        """Nothing on the terminal."""
