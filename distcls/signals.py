"""Signals that ask a run to stop: the first is noted, a second one leaves at once.

While there is nothing to save, before training begins, the first one leaves at once too (`first_does`).

This file imports nothing heavy, because `install` is the first thing that an entry point does: a signal
that arrives while torch is being imported must not be lost, or kill the process.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable

REPEAT = 1.0
"""Seconds in which the same signal again is the same order: a terminal and torchrun both pass Ctrl-C on."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

_received: list[int] = []
_reaction: list[Callable[[str], None]] = []
_second_leaves = True


def install(second_leaves: bool = True) -> None:
    """Record the stop signals from now on, in this process but not in the loader workers it forks.

    A thread reads them from a socket, because a Python handler would wait for the main thread to come
    back from C++: a second signal has to end a process that hangs in a collective whose peer is gone.
    """
    global _second_leaves
    _second_leaves = second_leaves
    if signal.getsignal(signal.SIGTERM) is _do_nothing:
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, _do_nothing)
    threading.Thread(target=_listen, args=(reader, writer), daemon=True, name="distcls-signals").start()
    os.register_at_fork(after_in_child=_ignore_in_child)


def received() -> str | None:
    """The name of the first stop signal that arrived, or None."""
    return signal.Signals(_received[0]).name if _received else None


def first_does(reaction: Callable[[str], None] | None) -> None:
    """What the first signal does beside being noted, called with its name in the thread that waits for signals.

    One that has come already does it at once.
    """
    _reaction[:] = [reaction] if reaction is not None else []
    name = received()
    if reaction is not None and name is not None:
        reaction(name)


def ignore() -> None:
    """Loader workers live as long as their rank, which decides what a signal means."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def obey_parent_only() -> None:
    """In a loader worker: no stop signal counts but that of the process that started it, which means its end.

    A rank that fails ends its workers by SIGTERM as it exits, and waits for them.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS, where nobody can tell who sent it
        ignore()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # blocked, so that only the thread takes it
    threading.Thread(target=_await_parent, args=(os.getppid(),), daemon=True, name="distcls-signals").start()


def _await_parent(parent: int) -> None:
    while signal.sigwaitinfo(STOP_SIGNALS).si_pid != parent:
        pass
    os._exit(0)


def _ignore_in_child() -> None:
    signal.set_wakeup_fd(-1)
    ignore()


def _do_nothing(number: int, frame: object) -> None:
    """A handler must exist for the signal to reach the socket."""


def _listen(reader: socket.socket, writer: socket.socket) -> None:
    """`writer` is kept alive here: closing it would stop the notices."""
    first_at = 0.0
    while True:
        for number in reader.recv(64):
            if number not in STOP_SIGNALS or ([number] == _received and time.monotonic() - first_at < REPEAT):
                continue
            if _received:
                if _second_leaves:
                    os._exit(128 + number)
                continue
            _received.append(number)
            first_at = time.monotonic()
            for reaction in _reaction:
                reaction(signal.Signals(number).name)
