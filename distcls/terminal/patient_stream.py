"""Writes to a terminal from a thread, because a terminal may stop reading: after Ctrl-S, or if the connection is lost.

A direct write would then block, and training with it.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import threading
import time
from collections import deque
from typing import TextIO

MOST_WAITING = 2**20
"""Characters that may wait for a terminal that reads nothing; later text is dropped until it reads again."""
LAST_WAIT = 3.0
"""Seconds to wait at most for text that the terminal has not yet taken."""


class PatientStream(io.TextIOBase):
    """A terminal's stream that never waits. What is written arrives in order, unless the terminal stops for long."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._num_waiting = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The terminal's encoding: rich chooses its characters by it."""
        return self._stream.encoding

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Hand the text to the thread. Raises the error of an earlier write."""
        with self._changed:
            if self._error is not None:
                raise self._error
            if text and self._num_waiting < MOST_WAITING:
                self._waiting.append(text)
                self._num_waiting += len(text)
                if self._thread is None:  # it ends when there is nothing to write, so that none is left behind
                    self._thread = threading.Thread(target=self._write, daemon=True, name="distcls-terminal")
                    self._thread.start()
                    atexit.register(self.drain)
        return len(text)

    def drain(self) -> None:
        """Wait until the terminal has taken everything, for LAST_WAIT at most."""
        end = time.monotonic() + LAST_WAIT
        with self._changed:
            while self._thread is not None and time.monotonic() < end:
                self._changed.wait(end - time.monotonic())

    def _write(self) -> None:
        while True:
            with self._changed:
                text = "".join(self._waiting)
                self._waiting.clear()
                if not text or self._error is not None:
                    self._num_waiting, self._thread = 0, None
                    atexit.unregister(self.drain)
                    self._changed.notify_all()
                    return
            try:
                self._write_to_terminal(text.encode(self.encoding, errors="replace"))
            except (OSError, ValueError) as error:  # the terminal is gone
                self._error = error
            with self._changed:
                self._num_waiting -= len(text)

    def _write_to_terminal(self, data: bytes) -> None:
        # Not through the stream: Python aborts at exit if a thread holds the lock of sys.stdout.
        while data:
            try:
                data = data[os.write(self._stream.fileno(), data) :]
            except BlockingIOError:  # somebody made the terminal non-blocking
                select.select([], [self._stream.fileno()], [])
