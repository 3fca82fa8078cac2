"""Maintains status.json: what a run is doing, for people, launchers and the run's other processes."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distcls.files.atomic import read_json, write_text


class StatusFile:
    """status.json: what the run is doing. Cheap enough to update at every step."""

    def __init__(self, path: Path) -> None:
        self.path = path / "status.json"
        self.next_write = 0.0
        self.has_ended = False
        self.lock = threading.Lock()  # the last write may come from another thread than the main one
        found = read_status(path)
        before = found.get("before")
        self.before: dict[str, Any] = before if before and isinstance(before, dict) else found
        """The status left by the previous start, or by the last one that got as far as training."""
        self.save_seconds: float | None = self.before.get("save_seconds")
        """Seconds that the last checkpoint took to write, in this start or the previous one."""
        seconds = self.before.get("seconds")
        self.seconds_before = float(seconds) if isinstance(seconds, int | float) else 0.0
        """How long the earlier starts ran."""
        self.began = time.monotonic()

    def write(self, state: str, step: int, phase: str, reason: str | None = None, exit_code: int | None = None) -> None:
        """Replace the file now. exit_code: recorded only if the run failed."""
        with self.lock:
            if not self.has_ended:
                self.has_ended = phase == "end"
                self._write(state, step, phase, reason, exit_code)

    def write_end_of_start(self, state: str, reason: str | None, exit_code: int | None = None) -> None:
        """Write the end of a start that trained nothing: the run keeps its step, and stays finished if it was."""
        if state == "failed" and self.before.get("state") == "finished":
            state, reason = "finished", self.before.get("reason")
        self.write(state, self.before.get("step", 0), "end", reason, exit_code)

    def _write(self, state: str, step: int, phase: str, reason: str | None, exit_code: int | None) -> None:
        start = time.monotonic()
        status = {"state": state, "step": step, "phase": phase, "reason": reason, "time": now(), "pid": os.getpid()}
        status["save_seconds"] = self.save_seconds
        if state == "failed" and exit_code is not None:
            status["exit_code"] = exit_code
        status["seconds"] = round(self.seconds_before + start - self.began, 3)  # of all starts together
        if phase == "start":
            status["before"] = self.before
        write_text(self.path, json.dumps(status) + "\n", durable=False)
        # A slow disk gets fewer updates: they may take 0.2 % of the time at most.
        self.next_write = time.monotonic() + max(0.05, 500 * (time.monotonic() - start))

    def write_if_due(self, state: str, step: int, phase: str) -> None:
        """Replace the file, unless it was replaced a moment ago."""
        if time.monotonic() >= self.next_write:
            self.write(state, step, phase)


def is_finished(path: Path) -> bool:
    """True if the run in a folder has finished."""
    return read_status(path).get("state") == "finished"


def read_status(path: Path) -> dict[str, Any]:
    """Return the content of status.json; empty if it is missing or damaged."""
    return read_object(path / "status.json")


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if it is missing or damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def state_of(path: Path) -> str | None:
    """Return the state of the run in a folder, for people: "killed" for one that left "running" in its status.

    None if there is no run. A run that is really running holds the folder's lock; if the lock cannot be queried,
    the status counts.
    """
    status = read_status(path)
    is_ours = status.get("pid") == os.getpid()  # testing would release our own lock
    if status.get("state") == "running" and not is_ours and _is_locked(path / LOCK) is False:
        return "killed"
    return status.get("state")


def is_training(path: Path) -> bool:
    """True if a process is training the run in a folder.

    If the folder's lock cannot be queried, this guesses: True if the process that the status names is alive on this
    machine, or if the status changed not long ago.
    """
    if state_of(path) != "running":
        return False
    if _is_alive(read_status(path).get("pid")):
        return True
    is_locked = _is_locked(path / LOCK)
    return _has_changed(path / "status.json") if is_locked is None else is_locked


def _is_alive(pid: Any) -> bool:
    """True if this machine has such a process and we may signal it, as we may any run that we started."""
    if not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return True


def _has_changed(status: Path) -> bool:
    try:
        return time.time() < status.stat().st_mtime + RECENT
    except OSError:
        return False


def warn_if_unfinished(run_dir: Path) -> None:
    """Warn that the weights of an unfinished run may still change."""
    state = state_of(run_dir)
    if state not in SETTLED:
        print(f"warning: {run_dir} is {state}, not finished: these are its best weights so far", file=sys.stderr)


SETTLED = ("finished", None)
"""States in which the weights of a run no longer change; None: nothing says so."""

LOCK = ".lock"
"""File in the run folder on which its run holds a POSIX lock."""

RECENT = 600.0
"""A status newer than this, in seconds, may belong to a process on another machine. It is long because an evaluation
does not update the status, and training a run twice at once is worse than waiting."""

FLOCK = "hhqqi4x"
"""struct flock of Linux's <fcntl.h>: querying with it takes no lock, which could block a run that is starting."""


def _is_locked(file: Path) -> bool | None:
    """True if a process holds the lock; None if that is unknown."""
    if sys.platform != "linux":
        return None
    question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with file.open() as opened:
            answer = fcntl.fcntl(opened, fcntl.F_GETLK, question)
    except FileNotFoundError:
        return False
    except OSError:  # a file system without locks
        return None
    return struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK


def now() -> str:
    """Return the time in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
