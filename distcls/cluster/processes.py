"""The processes that share the work of a run, and how they agree."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from distcls.cluster import signals
from distcls.cluster.peers import Departure, Peers
from distcls.errors import DistclsError, PeerFailed, UsageError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""Longest wait for another process to start, or to take part in a sum (longer where hang_timeout is)."""
PATIENCE = timedelta(days=1)
"""Longest wait for work that one process does for all, such as decoding a data set: peers.py knows if it lives."""


class Processes:
    """All processes, and this one among them. Accelerate starts the process group, from torchrun's variables."""

    def __init__(self, device: str, hang_timeout: float = 0.0) -> None:
        timeout = max(TIMEOUT, timedelta(seconds=hang_timeout + 60))
        state = PartialState(cpu=_on_cpu(device), timeout=timeout)
        assert state.device is not None
        self.device = state.device
        self.rank: int = state.process_index
        self.world_size: int = state.num_processes
        self.local_rank: int = state.local_process_index
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.is_main: bool = state.is_main_process
        self.is_local_main: bool = state.is_local_main_process
        expected = int(os.environ.get("WORLD_SIZE", "1"))
        if self.world_size != expected:
            raise UsageError(f"WORLD_SIZE is {expected}, but {self.world_size} processes were connected.")
        self._ballots: Any = None
        self._vote: tuple[torch.Tensor, Any] | None = None
        self.peers: Peers | None = None
        if self.world_size > 1:
            self._ballots = dist.new_group(backend="gloo", timeout=TIMEOUT)
            self.peers = Peers(self.rank, self.world_size)
            self.wait_for_everyone()
            # Public since torch 2.14 or so, and private before.
            set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
            set_timeout(PATIENCE, self._ballots)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Leave together where all of them do: else the others would tell that one is gone without a word."""
        if error is None:
            self.end()
        elif isinstance(error, DistclsError) and error.on_all_ranks:
            with contextlib.suppress(PeerFailed):  # this process has its own error to tell
                self.end()

    def wait_for_everyone(self) -> None:
        """Returns when all processes have called it."""
        if self._ballots is not None:
            dist.barrier(group=self._ballots)

    def from_main(self, function: Callable[[], T]) -> T:
        """Call a function on the main process; its result, or its DistclsError, is everybody's."""
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
        """What each process has given, by rank. All of them call it."""
        values = [value] * self.world_size
        if self._ballots is not None:
            dist.all_gather_object(values, value, group=self._ballots)
        return values

    def to_main(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """What each process has given, by rank: CPU tensors of one shape. Empty on all but the main process."""
        if self._ballots is None:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.world_size)] if self.is_main else []
        dist.gather(tensor, tensors or None, dst=0, group=self._ballots)
        return tensors

    def asked_to_stop(self) -> bool:
        """Whether any process has received a stop signal: the same answer on all of them.

        It is the result of the vote that the last call began. The vote, an asynchronous reduction of one
        number over a gloo group of its own, runs while the step does.
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
        """From now on, nobody getting on for so many seconds ends the run; None: whatever it takes."""
        if self.peers is not None:
            self.peers.expect_progress(hang_timeout)

    def moved(self) -> None:
        """This process has got on, with something that takes long."""
        if self.peers is not None:
            self.peers.moved()

    def why_failed(self, error: BaseException, exit_code: int, reason: str) -> Departure | None:
        """Tell the others that this process fails. Where another one did before, and this is what follows: why."""
        if self.peers is None:
            return None
        first = self.peers.who_left() if _is_lost_connection(error) else self.peers.leave(exit_code, reason)
        self.peers.stop()
        return None if first.rank == self.rank else first

    def end(self) -> None:
        """Leave together, so that no process finds another one gone. Raises PeerFailed where one is."""
        if self.peers is None:
            return
        try:
            if self._vote is not None:
                self._vote[1].wait()
            self.wait_for_everyone()
        except RuntimeError as error:
            raise self.peers.who_left().as_error() from error
        finally:
            self.peers.stop()
        dist.destroy_process_group()


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because another process is not there any more."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def _on_cpu(device: str) -> bool:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device in available and not available[device]:
        raise UsageError(f"run.device={device}: torch {torch.__version__} finds none here. Use run.device=auto.")
    return device == "cpu" or not any(available.values())
