"""Manages the processes that share a run: how they join, exchange values, vote to stop, and leave."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState

from distcls.cluster import signals
from distcls.cluster.joining import meet
from distcls.cluster.peers import Departure, Peers
from distcls.errors import DistclsError, UsageError

T = TypeVar("T")

CLOSING = 60.0
"""Seconds that a process group gets to close after a failure."""

TIMEOUT = timedelta(minutes=10)
"""Longest wait for another process to start, or to take part in a sum (longer if hang_timeout is)."""
PATIENCE = timedelta(days=1)
"""Longest wait for work that one process does for all, such as decoding a data set: peers.py knows if it is alive."""


ACCELERATE = (PartialState, AcceleratorState, GradientState)
"""Accelerate's state, which is global to a process."""


class Processes:
    """All processes of a run, and this one's place among them, from torchrun's variables.

    A context manager: a process that fails notifies the others, and everything is closed, so that others can be opened.
    """

    def __init__(
        self, device: str, hang_timeout: float = 0.0, note_missing: Callable[[str], None] = lambda _: None
    ) -> None:
        """Raise UsageError, or MissingProcessError if a process does not start.

        note_missing: called in process 0 with a sentence about the processes that it is waiting for.
        """
        timeout = max(TIMEOUT, timedelta(seconds=hang_timeout + 60))
        on_cpu = _on_cpu(device)
        self.world_size = 1
        self._ballots: Any = None
        self._vote: tuple[torch.Tensor, Any] | None = None
        self.peers: Peers | None = None
        self._has_left = False
        self._before = [dict(kind._shared_state) for kind in ACCELERATE]
        for kind in ACCELERATE:
            kind._shared_state.clear()
        self._had_group = dist.is_initialized()
        try:
            self._join(on_cpu, timeout, note_missing)
        except BaseException:
            self._close()
            raise

    def _join(self, on_cpu: bool, timeout: timedelta, note_missing: Callable[[str], None]) -> None:
        meeting = meet(TIMEOUT, note_missing) if not self._had_group and (on_cpu or torch.cuda.is_available()) else None
        if meeting is not None:
            # Accelerate uses this group.
            dist.init_process_group("gloo" if on_cpu else "nccl", timeout=timeout, **meeting._asdict())
        state = PartialState(cpu=on_cpu, timeout=timeout)
        assert state.device is not None
        self.device = state.device
        self.rank: int = state.process_index
        self.world_size = state.num_processes
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.is_main: bool = state.is_main_process
        self.is_local_main: bool = state.is_local_main_process
        expected = int(os.environ.get("WORLD_SIZE", "1"))
        if self.world_size != expected:
            raise UsageError(f"WORLD_SIZE is {expected}, but {self.world_size} processes are connected.")
        if self.world_size > 1:
            self._ballots = dist.new_group(backend="gloo", timeout=TIMEOUT)
            store = dist.distributed_c10d._get_default_store()
            self.peers = Peers(store, self.rank, self.world_size)
            self.wait_for_everyone()
            # Public since about torch 2.14, private before.
            set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
            set_timeout(PATIENCE, self._ballots)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Leave together; on an error, notify the others, and raise PeerFailed if another process failed first."""
        if error is None:
            self.end()
            return
        if isinstance(error, DistclsError):
            self.why_failed(error, error.exit_code, str(error))
            self._close(with_group=self._is_idle())
            return
        first = self.why_failed(error, 1, f"{type(error).__name__}: {error}")
        self._close(with_group=False)
        if first is not None and isinstance(error, Exception):
            raise first.as_error() from None

    def wait_for_everyone(self) -> None:
        """Wait until all processes have called this."""
        if self._ballots is not None:
            dist.barrier(group=self._ballots)

    def from_main(self, function: Callable[[], T]) -> T:
        """Call a function on the main process, and return its result, or raise its DistclsError, on all processes."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = function()
            except DistclsError as error:
                outcome[1] = error
        if self._ballots is not None:
            dist.broadcast_object_list(outcome, src=0, group=self._ballots)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def from_all(self, value: T) -> list[T]:
        """Return each process's value, by rank. All processes call it."""
        values = [value] * self.world_size
        if self._ballots is not None:
            dist.all_gather_object(values, value, group=self._ballots)
        return values

    def to_main(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return each process's CPU tensor, by rank, all of one shape; an empty list except on the main process."""
        if self._ballots is None:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.world_size)] if self.is_main else []
        dist.gather(tensor, tensors or None, dst=0, group=self._ballots)
        return tensors

    def asked_to_stop(self) -> bool:
        """True if any process has received a stop signal: the same answer on all of them.

        This is the result of the vote that the previous call started. The vote, an asynchronous reduction of one
        number over its own gloo group, runs during the step.
        """
        asked = signals.received() is not None
        if self.peers is None:
            return asked
        self.peers.moved()
        if self._vote is not None:
            ballot, work = self._vote
            work.wait()
            if ballot.item():
                return True
        ballot = torch.tensor([float(asked)])
        self._vote = ballot, dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._ballots, async_op=True)
        return False

    def expect_progress(self, hang_timeout: float | None) -> None:
        """End the run, from now on, if no process makes progress for this many seconds; None: no limit."""
        if self.peers is not None:
            self.peers.expect_progress(hang_timeout)

    def moved(self) -> None:
        """Report progress in this process, during long work."""
        if self.peers is not None:
            self.peers.moved()

    def why_failed(self, error: BaseException, exit_code: int, reason: str) -> Departure | None:
        """Notify the others, once, that this process failed. If another one failed earlier, return why."""
        if self.peers is None or self._has_left:
            return None
        self._has_left = True
        first = self.peers.who_left(reason) if _is_lost_connection(error) else self.peers.leave(exit_code, reason)
        self.peers.stop()
        return None if first.rank == self.rank else first

    def end(self) -> None:
        """Leave together, so that no process finds another one gone. Raises PeerFailed if one is."""
        if self.peers is None or self._has_left:
            self._close()
            return
        self._has_left = True
        try:
            if self._vote is not None:
                self._vote[1].wait()
            self.wait_for_everyone()
        except RuntimeError as error:
            departure = self.peers.who_left(str(error))
            self._close(with_group=False)
            raise departure.as_error() from error
        self._close()

    def _is_idle(self) -> bool:
        """True if no vote is pending, after giving it a moment to finish."""
        end = time.monotonic() + 1.0
        while self._vote is not None and not self._vote[1].is_completed():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def _close(self, with_group: bool = True) -> None:
        """Stop the thread, close the group, and restore Accelerate's state. May be called more than once.

        with_group: False if a sum with another process may be pending, for which closing would wait.
        """
        if self.peers is not None:
            self.peers.stop()
        self.peers = None  # it holds on to the store, and so to its port
        self._vote = self._ballots = None
        if not self._had_group and dist.is_initialized() and (with_group or self.world_size == 1):
            dist.destroy_process_group()
        for kind, before in zip(ACCELERATE, self._before, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(before)


@contextlib.contextmanager
def group_closed() -> Iterator[None]:
    """Close the process group that a run in the block leaves open if it fails, so that this process can train again.

    Its pending sums end when the other processes of the run end or close theirs, so a command, which exits, does not
    wait for them.
    """
    had_group = dist.is_initialized()
    try:
        yield
    finally:
        if dist.is_initialized() and not had_group:
            closing = threading.Thread(target=dist.destroy_process_group, daemon=True, name="distcls-closing")
            closing.start()
            closing.join(CLOSING)


def _is_lost_connection(error: BaseException) -> bool:
    """True if a collective failed because another process is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def _on_cpu(device: str) -> bool:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device in available and not available[device]:
        raise UsageError(f"run.device={device}: torch {torch.__version__} finds no such device. Use run.device=auto.")
    return device == "cpu" or not any(available.values())
