"""For a process of a test: its stdout becomes a terminal that takes nothing any more, as after Ctrl-S."""

from __future__ import annotations

import os
import sys

terminal: list[int] = []


def stop() -> None:
    """Open one, and fill it."""
    master, slave = os.openpty()
    os.set_blocking(slave, False)
    try:
        while True:
            os.write(slave, b"x" * 1000)
    except BlockingIOError:
        os.set_blocking(slave, True)
    os.dup2(slave, 1)
    os.environ["TERM"] = "xterm"
    sys.stdout = sys.__stdout__ = os.fdopen(slave, "w", encoding="utf-8")  # the old one was a file's
    terminal[:] = [master, slave]  # kept open
