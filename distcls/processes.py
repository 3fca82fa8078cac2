"""The processes that share the work of a run, and how they agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from distcls import signals
from distcls.errors import DistclsError, UsageError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process: one of them may be decoding a data set meanwhile."""


class Processes:
    """All processes, and this one among them. Accelerate starts the process group, from torchrun's variables."""

    def __init__(self, device: str) -> None:
        state = PartialState(cpu=_on_cpu(device), timeout=TIMEOUT)
        assert state.device is not None
        self.device = state.device
        self.rank: int = state.process_index
        self.world_size: int = state.num_processes
        self.local_rank: int = state.local_process_index
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.is_main: bool = state.is_main_process
        self.is_local_main: bool = state.is_local_main_process
        self.wait_for_everyone = state.wait_for_everyone
        expected = int(os.environ.get("WORLD_SIZE", "1"))
        if self.world_size != expected:
            raise UsageError(f"WORLD_SIZE is {expected}, but {self.world_size} processes were connected.")
        self._ballots: Any = dist.new_group(backend="gloo") if self.world_size > 1 else None
        self._vote: tuple[torch.Tensor, Any] | None = None

    def from_main(self, function: Callable[[], T]) -> T:
        """Call a function on the main process; its result, or its DistclsError, is everybody's."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = function()
            except DistclsError as error:
                outcome[1] = error
        if self.world_size > 1:
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def asked_to_stop(self) -> bool:
        """Whether any process has received a stop signal: the same answer on all of them.

        It is the result of the vote that the last call began. The vote, an asynchronous reduction of one
        number over a gloo group of its own, runs while the step does.
        """
        asked = signals.received() is not None
        if self._ballots is None:
            return asked
        if self._vote is not None:
            ballot, work = self._vote
            work.wait()
            if ballot.item():
                return True
        ballot = torch.tensor([float(asked)])
        self._vote = ballot, dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._ballots, async_op=True)
        return False

    def end(self) -> None:
        """Leave together, so that no process finds another one gone."""
        if dist.is_initialized():
            if self._vote is not None:
                self._vote[1].wait()
            self.wait_for_everyone()
            dist.destroy_process_group()


def _on_cpu(device: str) -> bool:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device in available and not available[device]:
        raise UsageError(f"run.device={device}: torch {torch.__version__} finds none here. Use run.device=auto.")
    return device == "cpu" or not any(available.values())
