"""The options of `distcls serve`, which imports this file before anything slow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from distcls.data.decoding.decode import MOST_PIXELS
from distcls.errors import MissingInputError, UsageError

BACKENDS = ("torch", "onnx", "onnx-int8")

MOST_BYTES = 32_000_000
"""Of a request."""


@dataclass(frozen=True)
class Limits:
    """The most that a service accepts. Whatever is beyond gets an answer that says so."""

    max_bytes: int = MOST_BYTES
    """Of a request's body."""
    max_pixels: int = MOST_PIXELS
    """Of an image."""
    max_images: int = 64
    """Of a request."""
    max_queue: int = 1024
    """Images that wait for their answer, of all requests."""
    timeout: float = 30.0
    """Seconds from the start of a request to its answer; also how long a sender may take."""


@dataclass(frozen=True)
class ServeOptions:
    """The options of `distcls serve`."""

    name: str
    """The model's name in the routes under /v2."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free port."""
    backend: str = "torch"
    device: str = "auto"
    workers: int = 1
    """Processes that answer requests."""
    threads: int = 1
    """That compute, in each process."""
    max_batch: int = 64
    max_wait: float = 0.002
    """Seconds that a batch waits for images that are still being decoded."""
    limits: Limits = Limits()
    token: str | None = None
    """Required of every request but those about health; None: nobody needs one."""
    has_api: bool = True
    has_demo: bool = False
    health_routes: tuple[str, ...] = ()
    predict_routes: tuple[str, ...] = ()
    """Further routes, besides the usual ones."""


def route_of_vertex(kind: str) -> tuple[str, ...]:
    """Return the route that Vertex AI asks for in an environment variable; empty if it does not. kind: HEALTH …"""
    route = os.environ.get(f"AIP_{kind}_ROUTE")
    return (route,) if route else ()


def read_token(file: Path) -> str:
    """Return the token in a file. Raises MissingInputError or UsageError."""
    try:
        token = file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise MissingInputError(f"--token-file {file}: {error.strerror}.") from error
    except UnicodeDecodeError:
        token = ""
    if not token or len(token.split()) != 1:
        raise UsageError(
            f"--token-file {file}: it must hold one word of ASCII letters and digits, such as the output of "
            "`openssl rand -hex 32`."
        )
    return token
