"""Connects the processes of a run before torch does, which would wait silently for one that never comes.

A process that was killed, refused or never started is missing: the others name it after a few seconds, and fail with
a clear message once they have waited long enough. Process 0 has it noted in status.json too (runs/waiting.py).
"""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

from distcls.cluster import signals
from distcls.errors import MissingProcessError, Preempted, some_of, tell

NOTICE = 5.0
"""Seconds after which a missing process is named, once."""
PAUSE = 0.1
"""Seconds between two checks."""

_meetings = 0
"""Number of meetings so far: an agent's store still holds the keys of earlier ones."""


class Meeting(NamedTuple):
    """The store that connects the processes, and this process's place among them."""

    store: dist.Store
    rank: int
    world_size: int


def has_met() -> bool:
    """True if this process has begun to wait for others of its run."""
    return _meetings > 0


def meet(limit: timedelta, note: Callable[[str], None]) -> Meeting | None:
    """Wait until all processes of the run are there; return None if the environment does not describe several.

    note: called in process 0 with a sentence that names the missing processes, after a few seconds and whenever they
    change. Raises MissingProcessError, naming the ranks, after `limit`, and Preempted on a stop signal.
    """
    global _meetings
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in os.environ for name in names) or int(os.environ["WORLD_SIZE"]) == 1:
        return None
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    _meetings += 1
    gc.collect()  # what is left of an earlier run in this process may hold its store, and the port
    prefix = f"distcls-{_meetings}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    waiting = _Waiting(rank, world_size, limit.total_seconds(), note)
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    while True:
        if not is_host:
            waiting.until(lambda: _listens(host, port), lambda: [0])
        try:
            server = dist.TCPStore(host, port, world_size, is_host, timeout=limit, wait_for_workers=False)
            store = dist.PrefixStore(prefix, server)
            _call_the_roll(store, waiting)
            return Meeting(store, rank, world_size)
        except dist.DistNetworkError:
            if is_host and _meetings == 1:
                raise
            is_host = False  # torch may hold on to the store of an earlier run that failed in a pass: meet there
            time.sleep(PAUSE)  # process 0 left, or this was its last run's: wait for it to listen again


class _Waiting:
    """Waits for the other processes, and names those that are missing."""

    def __init__(self, rank: int, world_size: int, limit: float, note: Callable[[str], None]) -> None:
        self.rank, self.world_size, self.limit, self.note = rank, world_size, limit, note
        self.began = time.monotonic()
        self.told: Sequence[int] = ()
        """The missing processes that were named last."""

    def until(self, is_so: Callable[[], bool], missing: Callable[[], Sequence[int]]) -> None:
        """Wait until `is_so`. Raises MissingProcessError after the limit, naming the `missing` ranks."""
        while not is_so():
            name = signals.received()
            if name is not None:
                raise Preempted(f"{name} before training began: there is nothing to save.")
            waited = time.monotonic() - self.began
            if waited > self.limit:
                error = MissingProcessError(
                    f"{self._name(missing() or [0])} did not start within {self.limit:,.0f} s: see its output, "
                    "then start all processes again."
                )
                # The others wait for process 0: if it is missing, each speaks, as none knows which of them are there.
                error.on_all_ranks = self.rank == 0
                raise error
            if waited > NOTICE:
                self._tell(missing())
            time.sleep(PAUSE)

    def _tell(self, ranks: Sequence[int]) -> None:
        """Name the missing processes: on the terminal once, so that a thousand of them fill no screen."""
        if not ranks or ranks == self.told:
            return
        text = f"process {self.rank} is waiting for {self._name(ranks)} to start"
        if not self.told:
            tell(text)
        if self.rank == 0:
            self.note(text)
        self.told = ranks

    def _name(self, ranks: Sequence[int]) -> str:
        kind = "process" if len(ranks) == 1 else "processes"
        return f"{kind} {some_of([str(rank) for rank in ranks], 20)} of {self.world_size}"


def _call_the_roll(store: dist.Store, waiting: _Waiting) -> None:
    """Process 0 waits for all others, and they wait for its verdict; if it gives up, all do."""
    rank = waiting.rank
    store.set(f"here{rank}", "")
    if rank != 0:
        waiting.limit += 2 * NOTICE  # process 0 knows best who is missing
        waiting.until(lambda: store.check(["verdict"]), lambda: [] if store.check(["here0"]) else [0])
        if verdict := store.get("verdict").decode():
            raise MissingProcessError(verdict)
        return
    absent = set(range(1, waiting.world_size))

    def all_are_here() -> bool:
        absent.difference_update([other for other in absent if store.check([f"here{other}"])])
        return not absent

    try:
        waiting.until(all_are_here, lambda: sorted(absent))
    except MissingProcessError as error:
        store.set("verdict", str(error))
        time.sleep(3 * PAUSE)  # the store ends with this process
        raise
    store.set("verdict", "")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False
