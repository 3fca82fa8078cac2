"""Handles the signals that ask a run to stop: the first one is recorded, a second one exits at once.

Before training begins, when there is nothing to save, the first one exits at once too (`first_does`). A command
handles the signals for good (`install`); the Python API borrows them during a run (`borrowed`).

This file imports nothing heavy, because `install` is the first thing that an entry point does: a signal that arrives
while torch is being imported must not be lost, or kill the process.
"""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

REPEAT = 1.0
"""Seconds within which the same signal counts only once: a terminal and torchrun both send Ctrl-C."""

SECONDS_BETWEEN_LOOKS = 5.0
"""After this long without a signal, a loader worker checks that its rank is still alive."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""SIGHUP tells of a lost connection, and `nohup` ignores it: then it stays ignored."""

_received: list[int] = []
_first_at = 0.0
_reaction: list[Callable[[str], None]] = []
_second_leaves = True
_minded = False
"""True while this file handles the stop signals."""
_borrowed = False
_obeying: threading.Thread | None = None
"""In a process of multiprocessing, what awaits the signals of the process that started it."""
_masks = threading.local()
"""The signals that were blocked before a fork, in the thread that forks."""


def install(second_leaves: bool = True) -> None:
    """Record the stop signals from now on, in this process but not in the loader workers it forks.

    A thread reads them from a socket, because a Python handler would wait for the main thread to return from C++: a
    second signal must end a process that hangs in a collective whose peer is gone.
    """
    global _second_leaves, _minded
    _second_leaves = second_leaves
    if signal.getsignal(signal.SIGTERM) is _do_nothing:
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in heard_signals():
        signal.signal(number, _do_nothing)
    threading.Thread(target=_listen, args=(reader, writer), daemon=True, name="distcls-signals").start()
    _minded = True
    _register_at_fork()


@contextlib.contextmanager
def borrowed() -> Iterator[None]:
    """Record the stop signals while the block runs, then restore the previous handlers.

    For a program that is not ours, which must not be ended. The first signal's reaction (`first_does`) runs in the
    main thread, where it may raise; a second signal raises KeyboardInterrupt there. Does nothing outside the main
    thread, which alone can handle signals, or if `install` handles them already.
    """
    global _minded, _borrowed
    if _minded or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in heard_signals()}
    # A handler that was not set from Python cannot be restored: leave such a signal alone.
    taken = [number for number in before if before[number] is not None]
    _minded = _borrowed = True
    _register_at_fork()
    try:
        for number in taken:
            signal.signal(number, _note_in_main_thread)
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
        _minded = _borrowed = False
        _received.clear()
        _reaction.clear()


def heard_signals() -> list[signal.Signals]:
    """Return the stop signals, without SIGHUP if it is ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or not is_ignored]


def are_borrowed() -> bool:
    """True if a signal must not end the process, because the process is not ours."""
    return _borrowed


def received() -> str | None:
    """Return the name of the first stop signal that arrived, or None."""
    return signal.Signals(_received[0]).name if _received else None


def first_does(reaction: Callable[[str], None] | None) -> None:
    """Set a function that the first signal calls with its name, in the thread that waits for signals.

    If a signal has already arrived, call it now.
    """
    _reaction[:] = [reaction] if reaction is not None else []
    name = received()
    if reaction is not None and name is not None:
        reaction(name)


def obey_parent_only() -> None:
    """In a process of multiprocessing, ignore stop signals except from the process that started it, which end it.

    A rank that fails ends its workers with SIGTERM as it exits, and waits for them; so does a pool of a user's own.
    Workers whose rank was killed exit too: torch checks for that itself, but not for a rank killed while the worker was
    still starting. A process that is forked while signals are handled does this by itself.
    """
    global _obeying
    if _obeying is not None and _obeying.is_alive():
        return
    if not hasattr(signal, "sigtimedwait"):  # macOS, which does not say who sent a signal
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # blocked, so that only the thread takes it
    _obeying = threading.Thread(target=_await_parent, daemon=True, name="distcls-signals")
    _obeying.start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while True:
        sent = signal.sigtimedwait(STOP_SIGNALS, SECONDS_BETWEEN_LOOKS)
        if (sent is None and not parent.is_alive()) or (sent is not None and sent.si_pid == parent.pid):
            os._exit(0)


def _register_at_fork() -> None:
    if not _hooks:  # they cannot be removed, and do nothing while signals are not handled here
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_ignore_in_child)
        multiprocessing.util.register_after_fork(_hear_parent, lambda hear_parent: hear_parent())
        _hooks.append(True)


_hooks: list[bool] = []


def _block() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS) if _minded else None


def _unblock() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _ignore_in_child() -> None:
    """Keep the signals blocked in children, which live as long as their rank: that decides what a signal means.

    They are blocked and not ignored, so that a signal that ends a worker while it is still starting is seen later.
    """
    if _minded and not _borrowed:
        signal.set_wakeup_fd(-1)


def _hear_parent() -> None:
    if _minded:
        obey_parent_only()


def _do_nothing(number: int, frame: object) -> None:
    """Do nothing: a handler must exist for the signal to reach the socket."""


def _listen(reader: socket.socket, writer: socket.socket) -> None:
    """Read signals from the socket forever. This keeps `writer` alive: closing it would stop them from arriving."""
    while True:
        for number in reader.recv(64):
            if number not in STOP_SIGNALS or _is_repeated(number):
                continue
            if _received:
                if _second_leaves:
                    os._exit(128 + number)
                continue
            _note(number)


def _note_in_main_thread(number: int, frame: object) -> None:
    """Handle a borrowed signal: Python calls this between two instructions of the main thread, where it may raise."""
    if _is_repeated(number):
        return
    if _received:
        raise KeyboardInterrupt
    _note(number)


def _note(number: int) -> None:
    global _first_at
    _received.append(number)
    _first_at = time.monotonic()
    for reaction in _reaction:
        reaction(signal.Signals(number).name)


def _is_repeated(number: int) -> bool:
    """True for the same signal again, and for SIGHUP beside another: a session that ends sends both."""
    is_same = [number] == _received or (bool(_received) and signal.SIGHUP in (number, _received[0]))
    return is_same and time.monotonic() - _first_at < REPEAT
