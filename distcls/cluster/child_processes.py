"""Starts processes that end when the one that started them is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""

_LIBC = ctypes.CDLL(None)
"""Loaded before any fork: the child of a process with threads must not load libraries."""


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """In a new process, have the kernel send this signal once the parent is gone. Does nothing outside Linux.

    parent: its process id, to notice that it is gone already.
    """
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)
