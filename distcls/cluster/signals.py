"""Signals that ask a run to stop: the first is noted, a second one leaves at once.

While there is nothing to save, before training begins, the first one leaves at once too (`first_does`).

This file imports nothing heavy, because `install` is the first thing that an entry point does: a signal
that arrives while torch is being imported must not be lost, or kill the process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

REPEAT = 1.0
"""Seconds in which the same signal again is the same order: a terminal and torchrun both pass Ctrl-C on."""

SECONDS_BETWEEN_LOOKS = 5.0
"""After so long without a signal, a loader worker looks whether its rank is still there."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

_received: list[int] = []
_reaction: list[Callable[[str], None]] = []
_second_leaves = True
_masks = threading.local()
"""What was blocked before a fork, in the thread that forks."""


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
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_ignore_in_child)


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


def obey_parent_only() -> None:
    """In a loader worker: no stop signal counts but that of the process that started it, which means its end.

    A rank that fails ends its workers by SIGTERM as it exits, and waits for them. One that is gone without a word
    ends them too: torch looks for that itself, but not for one that went while the worker was still starting.
    """
    if not hasattr(signal, "sigtimedwait"):  # macOS, where nobody can tell who sent it
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # blocked, so that only the thread takes it
    threading.Thread(target=_await_parent, daemon=True, name="distcls-signals").start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while True:
        sent = signal.sigtimedwait(STOP_SIGNALS, SECONDS_BETWEEN_LOOKS)
        if (sent is None and not parent.is_alive()) or (sent is not None and sent.si_pid == parent.pid):
            os._exit(0)


def _block() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _ignore_in_child() -> None:
    """Children live as long as their rank, which decides what a signal means: they stay blocked there.

    Blocked, and not ignored: a loader worker that is ended while it still starts has to hear of it later.
    """
    signal.set_wakeup_fd(-1)


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
