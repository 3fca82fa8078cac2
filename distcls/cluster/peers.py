"""Monitors the other processes of a run, so that none waits for one that has failed, hangs or is gone.

A few times a second, a thread of each process reports through their common store that the process is alive, and how
far its main thread has come. A process that fails reports it there first (`leave`); the others then have a moment to
end by themselves (most do, because their collective fails); the rest are ended. If no process makes progress, each one
records where its main thread is.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist

from distcls.errors import PeerFailed, Preempted

INTERVAL = 0.25
"""Seconds between two heartbeats."""
SILENCE = 60.0
"""Seconds without a heartbeat after which a process counts as gone, unless a collective notices earlier."""
GRACE = 10.0
"""Seconds that a process's main thread has to end by itself after another process failed."""
DIAGNOSIS = 4.0
"""Seconds within which a process that is alive sends a heartbeat."""


@dataclass(frozen=True)
class Departure:
    """Why the first process left."""

    rank: int
    exit_code: int
    reason: str
    main_is_gone: bool = False
    """True if process 0, which otherwise reports for all, cannot."""

    def __str__(self) -> str:
        return self.reason if self.rank < 0 else f"process {self.rank} ended: {self.reason}"

    def as_error(self) -> PeerFailed:
        """Return the error for a process that has to end because of this one."""
        advice = "\nRun the same command to resume from the last checkpoint." if self.exit_code == 1 else ""
        return PeerFailed(f"{self}{advice}", self.exit_code, self.main_is_gone)


@dataclass
class Sign:
    """A process's report about itself."""

    beats: int = 0
    progress: int = 0
    """Steps and batches that its main thread has completed."""
    hang_timeout: float | None = None
    """Seconds within which some process must make progress; None: no limit."""


class Peers:
    """The other processes, as this one sees them. on_end(departure) returns the exit code if another one ends us."""

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        """store: the one through which the processes met."""
        # Its own connection: the main thread may be waiting on the other one.
        self.store = dist.PrefixStore("distcls-peers", store.clone())
        self.rank, self.world_size = rank, world_size
        self.sign = Sign()
        self.on_end: Callable[[Departure], int] = lambda departure: departure.exit_code
        self._heard: dict[int, tuple[Sign, float]] = {}
        self._first: Departure | None = None
        self._moved_at = 0.0
        self._hang_timeout: float | None = None
        self._stopped = threading.Event()
        self._main = threading.get_ident()
        self._tell()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="distcls-peers")
        self._thread.start()
        # At exit, Python tears down a thread that waits in torch's C++ code, which then aborts the process.
        atexit.register(self.stop)

    def expect_progress(self, hang_timeout: float | None) -> None:
        """End the run, from now on, if no process makes progress for this many seconds; None: no limit."""
        self.sign.progress += 1
        self.sign.hang_timeout = hang_timeout

    def moved(self) -> None:
        """Report that the main thread has made progress."""
        self.sign.progress += 1

    def leave(self, exit_code: int, reason: str) -> Departure:
        """Report to the others that this process ends; return the first departure, this one's or an earlier one."""
        return self._leave(Departure(self.rank, exit_code, reason))

    def _leave(self, mine: Departure) -> Departure:
        first = mine
        with contextlib.suppress(RuntimeError):  # the store ended with process 0
            first = Departure(**json.loads(self.store.compare_set("departure", "", json.dumps(asdict(mine)))))
            self._first = first
            self._acknowledge()
        return first

    def who_left(self, error: str) -> Departure:
        """Return why a collective failed: the first process that left, or those whose heartbeats have stopped.

        error: what the collective said, which is the reason if all are alive.
        """
        end = time.monotonic() + DIAGNOSIS
        try:
            before = self._signs()
            while time.monotonic() < end:
                if departure := self._departure():
                    return departure
                time.sleep(0.1)
            after = self._signs()
        except RuntimeError:
            return self._first or MAIN_IS_GONE
        return self._leave(
            _gone([rank for rank, sign in after.items() if rank != self.rank and sign == before.get(rank)], error)
        )

    def stop(self) -> None:
        """Stop monitoring: from now on this process ends by itself."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * INTERVAL + 1)
        atexit.unregister(self.stop)

    # In the thread -----------------------------------------------------------------------------------

    def _watch(self) -> None:
        has_said_where = False
        try:
            while not self._stopped.wait(INTERVAL):
                self._tell()
                if self.rank == 0:
                    self._look_around()
                if departure := self._departure():
                    return self._end(departure)
                if not has_said_where and self.store.check(["hang"]):
                    self.store.set(f"where{self.rank}", _where(self._main))
                    has_said_where = True
        except RuntimeError:
            self._end(self._first or MAIN_IS_GONE)

    def _tell(self) -> None:
        self.sign.beats += 1
        self.store.set(f"rank{self.rank}", json.dumps(asdict(self.sign)))

    def _end(self, departure: Departure) -> None:
        """Give the main thread a moment to end by itself, then end the process."""
        if departure.exit_code != Preempted.exit_code and self._stopped.wait(GRACE):
            return
        if not self._stopped.is_set():
            os._exit(self.on_end(departure))

    def _look_around(self) -> None:
        """On process 0: end the run if a process is gone, or if none has made progress for hang_timeout."""
        signs, now = self._signs(), self._awake()
        for rank, sign in signs.items():
            old, _ = self._heard.get(rank, (Sign(), 0.0))
            if sign.beats != old.beats:
                self._heard[rank] = sign, now
            if sign.progress != old.progress:
                self._moved_at = now
        silent = [rank for rank, (_, heard_at) in self._heard.items() if now - heard_at > SILENCE]
        if silent:
            self._leave(_gone(silent))
        hang_timeout = max((s.hang_timeout for s in signs.values() if s.hang_timeout is not None), default=None)
        if hang_timeout != self._hang_timeout:  # from now on
            self._hang_timeout, self._moved_at = hang_timeout, now
        if hang_timeout is not None and now - self._moved_at > hang_timeout:
            reason = (
                f"no process has made progress for {hang_timeout:g} s (run.hang_timeout). They are at:\n"
                f"{self._where_all_stand()}\nLook at the process that is not waiting for the others."
            )
            self._leave(Departure(-1, 1, reason))

    def _where_all_stand(self) -> str:
        """Return a line for each process, which it writes itself within a moment, if it still can."""
        self.store.set("hang", "")
        self.store.set("where0", _where(self._main))
        keys = [f"where{rank}" for rank in range(self.world_size)]
        end = time.monotonic() + DIAGNOSIS
        while not self.store.check(keys) and time.monotonic() < end:
            time.sleep(INTERVAL)
        found = {rank: self.store.get(key).decode() for rank, key in enumerate(keys) if self.store.check([key])}
        return "\n".join(f"  process {r}: {found.get(r, 'does not answer')}" for r in range(self.world_size))

    def _awake(self) -> float:
        """Return the seconds that this process was not suspended: if all were suspended, none is at fault."""
        return self.sign.beats * INTERVAL

    def _departure(self) -> Departure | None:
        """Return the first departure, or None. It is remembered, since the store ends with process 0."""
        if not self.store.check(["departure"]):
            return None
        self._first = Departure(**json.loads(self.store.get("departure")))
        self._acknowledge()  # also where it was known: process 0 must not leave before the others know
        return self._first

    def _acknowledge(self) -> None:
        """Report that this process knows who left. Process 0, with which the store ends, waits until all know."""
        self.store.set(f"knows{self.rank}", "")
        end = time.monotonic() + DIAGNOSIS
        while self.rank == 0 and not self.store.check([f"knows{rank}" for rank in range(self.world_size)]):
            if time.monotonic() > end:
                return
            time.sleep(0.05)

    def _signs(self) -> dict[int, Sign]:
        """Return the latest sign of each process that has sent one."""
        # A single query for the processes already heard: there may be hundreds.
        there = [r for r in range(self.world_size) if r in self._heard or self.store.check([f"rank{r}"])]
        values = self.store.multi_get([f"rank{rank}" for rank in there])
        return {rank: Sign(**json.loads(value)) for rank, value in zip(there, values, strict=True)}


def _gone(ranks: list[int], error: str = "") -> Departure:
    """Return the departure of processes whose heartbeats have stopped; if there are none, the error of a sum."""
    if not ranks:
        text = f"a sum over the processes failed or took too long, although all of them are alive. It said: {error}"
        return Departure(-1, 1, text)
    numbers = ", ".join(map(str, ranks))
    who = f"processes {numbers} are" if len(ranks) > 1 else f"process {numbers} is"
    text = (
        f"{who} gone without an error: killed, perhaps for lack of memory (see the system log), or the machine is down"
    )
    return Departure(-1, 1, text, main_is_gone=0 in ranks)


MAIN_IS_GONE = _gone([0])


def _where(thread: int) -> str:
    """Return the innermost place of a thread in this package, and of all: see `place_in`.

    faulthandler finds it in C, without side effects: inspecting another thread's frames from Python turns them into
    objects, and a process that did so while frames came and went has crashed.
    """
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text = file.read().decode(errors="replace")
    return place_in(text, thread)


def place_in(traceback: str, thread: int) -> str:
    """Return where a thread is, from faulthandler's text: "training/step.py:62 _forward → nn/linear.py:125 forward"."""
    for part in traceback.split("\n\n"):
        head, _, lines = part.partition("\n")
        number = re.search(r"(?:Thread|thread) 0x([0-9a-f]+)", head)
        if number is None or int(number[1], 16) != thread:
            continue
        calls = re.findall(r'File "(.*)", line (\d+) in (.*)', lines)
        ours = [call for call in calls if call[0].startswith(f"{PACKAGE}/")]
        places = [
            f"{'/'.join(Path(file).parts[-2:])}:{line} {function}" for file, line, function in ours[:1] + calls[:1]
        ]
        return " → ".join(dict.fromkeys(places)) or "outside Python"
    return "unknown"


PACKAGE = Path(__file__).parents[1]
