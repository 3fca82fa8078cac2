"""Downloads that end: the libraries that download data sets and weights set no limit, and could wait forever."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

SECONDS_WITHOUT_DATA = 30
"""How long a server may send nothing, as behind a silent firewall."""


@contextlib.contextmanager
def ending_when_silent() -> Iterator[None]:
    """Let connections that are opened in the block raise TimeoutError if nothing arrives for SECONDS_WITHOUT_DATA."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_WITHOUT_DATA)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
