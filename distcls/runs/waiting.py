"""Says in status.json which processes a run is waiting for, before they have joined and the run can open its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import IO

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.errors import DistclsError, Preempted
from distcls.runs.resuming import choose_folder, lock_folder
from distcls.runs.status import StatusFile, is_finished


def joined(config: Config, default_name: str, check: Callable[[], None] = lambda: None) -> Processes:
    """Return the processes of the run once all are there; until then, status.json names those that are missing.

    check: as for RunFolder. Raises the errors of Processes.
    """
    waiting = _Waiting(config, default_name, check)
    try:
        return Processes(config.run.device, config.run.hang_timeout, waiting.note)
    except DistclsError as error:
        waiting.end(error)
        raise
    finally:
        waiting.close()


class _Waiting:
    """The status of a start that is incomplete. It is written under the folder's lock, so never into another run's."""

    def __init__(self, config: Config, default_name: str, check: Callable[[], None]) -> None:
        self.config, self.default_name, self.check = config, default_name, check
        self.status: StatusFile | None = None
        self._lock: IO[str] | None = None

    def note(self, reason: str) -> None:
        """Write what the run waits for, unless its folder cannot be used: RunFolder says so once all are there."""
        with contextlib.suppress(DistclsError, OSError):
            if self.status is None:
                path = choose_folder(self.config, self.default_name)
                self.check()
                if is_finished(path):  # it stays finished until it is trained longer
                    return
                self._lock = lock_folder(path)
                self.status = StatusFile(path)
            self.status.write("running", 0, "start", reason)

    def end(self, error: DistclsError) -> None:
        """Write why the run did not start, if it was said that it waits."""
        with contextlib.suppress(OSError):
            if self.status is not None:
                self.status.write_end_of_start("preempted" if isinstance(error, Preempted) else "failed", str(error))

    def close(self) -> None:
        """Unlock the folder, for RunFolder to lock it."""
        if self._lock is not None:
            self._lock.close()
