"""Starts `distcls serve` as a process of its own, and clients that notice when a request is lost."""

from __future__ import annotations

import http.client
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int = 0, side: int = 8) -> bytes:
    """A picture of noise, as a file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Served:
    """A running service; ends with the `with` block."""

    def __init__(self, run_dir: Path, *words: str) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distcls", "serve", str(run_dir), "--port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if not self.line:
            raise AssertionError(f"the service did not start: {self.process.communicate()[1]}")
        self.url = self.line.split()[3].rstrip(",")
        self.port = int(self.url.rpartition(":")[2])
        self.request("GET", "/healthz")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """The status and body of an answer. Headers: content_type="image/png" …"""
        connection = self.connection()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self) -> tuple[int, str]:
        """SIGTERM: the exit code, and what was written to stderr."""
        self.process.send_signal(signal.SIGTERM)
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.communicate()


def keep_asking(service: Served, outcomes: Counter[str], content: bytes) -> None:
    """Send requests, one after the other, until there is no more connection; count them, and the lost ones."""
    while True:
        connection = service.connection()
        try:
            connection.connect()
        except ConnectionRefusedError:
            return
        is_open = True
        while is_open:
            try:
                connection.request("POST", "/predict", content, {"content-type": "image/png"})
                answer = connection.getresponse()
                answer.read()
                outcomes[str(answer.status)] += 1
                is_open = answer.getheader("connection") != "close"
            except (OSError, http.client.HTTPException) as error:
                outcomes[f"lost: {error!r}"] += 1
                return
        connection.close()


def stopped_under_load(service: Served, clients: int, seconds: float) -> tuple[Counter[str], int, str]:
    """What became of the requests of many clients while the service was stopped, its exit code and its stderr."""
    outcomes: Counter[str] = Counter()
    content = png()
    threads = [threading.Thread(target=keep_asking, args=(service, outcomes, content)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    code, errors = service.stop()
    for thread in threads:
        thread.join(30)
    return outcomes, code, errors
