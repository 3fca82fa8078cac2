"""Shows how far a command is that counts something: one live line on a terminal, and nothing but warnings elsewhere."""

from __future__ import annotations

import math
import time
from typing import TextIO

from distcls.terminal.columns import clock, three_digits
from distcls.terminal.progress import count_fields
from distcls.terminal.screens import Field, open_screen


class Counter:
    """Counts items, such as images, on a stream. Call `close` at the end, whatever happens."""

    def __init__(self, what: str, total: int | None, stream: TextIO, has_line: bool = True) -> None:
        """total: None if it is unknown. has_line: False if the live line would disturb other output."""
        self.what, self.total = what, total
        self._screen = open_screen(stream)
        self._interval = self._screen.seconds_between_drawings if has_line else None
        self._started = time.monotonic()
        self._next_drawing = -math.inf

    def warning(self, text: str) -> None:
        """Show a permanent line that someone should look into."""
        self._screen.say(f"warning: {text}", "yellow")

    def counted(self, done: int) -> None:
        """Show that `done` items are finished."""
        now = time.monotonic()
        if self._interval is None or now < self._next_drawing:
            return
        rate = done / max(now - self._started, 1e-9)
        left = [] if self.total is None else [Field(2, "left", clock((self.total - done) / rate))]
        self._screen.draw([*count_fields(self.what, done, self.total), Field(1, "", f"{three_digits(rate)}/s"), *left])
        self._next_drawing = time.monotonic() + self._interval

    def close(self) -> None:
        """Remove the live line, and give a slow terminal a moment."""
        self._screen.clear()
        self._screen.drain()
