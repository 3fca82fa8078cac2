"""Terminals and notebooks as tests see them."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
import threading


class Terminal:
    """A pseudo terminal of a given width, and what was written to it."""

    def __init__(self, width: int) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        self.stream = os.fdopen(slave, "w")
        self._bytes = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self._master, 65536):
                self._bytes += chunk
        except OSError:
            pass

    def close(self) -> str:
        self.stream.close()
        self._reader.join()
        os.close(self._master)
        return self._bytes.decode()


def visible(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


class NotebookStream(io.StringIO):
    """What ipykernel puts in the place of sys.stdout."""


NotebookStream.__module__ = "ipykernel.iostream"


def as_shown(text: str) -> list[str]:
    """Return the lines that a notebook shows: what follows a carriage return overwrites its line."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines
