"""A server of weights on this machine, as the Hugging Face Hub and PyTorch's download server answer."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class WeightsServer(http.server.ThreadingHTTPServer):
    """Serves `files`, by their paths, and counts the requests.

    A path with "hanging" is never answered, one with "stalling" stops halfway through its file.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: WeightsServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        self.wfile.write(content[: len(content) // 2])
        if "stalling" in self.path:
            self.server.over.wait(60)
        self.wfile.write(content[len(content) // 2 :])

    def answer(self) -> bytes:
        self.server.requests[f"{self.command} {self.path}"] += 1
        if "hanging" in self.path:
            self.server.over.wait(60)
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        return content or b""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def weights_server() -> Iterator[WeightsServer]:
    """Run a server for the block."""
    with WeightsServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
