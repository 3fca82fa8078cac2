"""Manages the folder of a run that is running: locks it, and writes what the run reports along the way.

Nothing here affects what is computed.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from distcls.cluster import signals, slurm
from distcls.cluster.agreement import refuse_differences, refuse_to_begin_anew
from distcls.cluster.peers import Departure
from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.errors import DiskError, Preempted, note_exit_code, note_reason, tell
from distcls.files.atomic import write_json, write_text
from distcls.runs.environment import environment
from distcls.runs.opening import sign_config
from distcls.runs.resolution import resolve
from distcls.runs.resuming import GIVEN, choose_folder, config_to_keep, lock_folder, steps_of
from distcls.runs.status import StatusFile, read_status
from distcls.runs.tracking.trackers import Tracker
from distcls.terminal.progress import Progress


class RunFolder:
    """A run's folder, locked. Its `config` is complete: everything that the user left open is resolved.

    All processes of the run create one; only the main process writes. A context manager that unlocks the folder.
    """

    def __init__(
        self,
        config: Config,
        processes: Processes,
        default_name: str,
        check: Callable[[], None] = lambda: None,
        settle: Callable[[Config], Mapping[str, Any]] = lambda _: {},
    ) -> None:
        """Raise UsageError, DiskError or AlreadyFinished, the same on all processes.

        check: called before the folder is made, on the main process. settle: see `resolve`.
        """
        self.processes = processes
        self.progress = Progress() if processes.is_main else Progress.silent()
        self.status: StatusFile | None = None
        self.tracker: Tracker | None = None
        self.step = 0
        self.reason: str | None = None
        self._lock: IO[str] | None = None
        try:
            self._enter(config, default_name, check, settle)
        except BaseException:
            signals.first_does(None)
            self.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _enter(
        self,
        config: Config,
        default_name: str,
        check: Callable[[], None],
        settle: Callable[[Config], Mapping[str, Any]],
    ) -> None:
        processes = self.processes
        self.dir, stored = processes.from_main(lambda: self._open(config, default_name, check))
        signals.first_does(self.leave_before_training)  # settling may download weights, for minutes
        self.config = resolve(config, stored, self.dir, processes, settle)
        refuse_differences(self.config, processes)
        self._goes_on, self._has_begun = stored is not None, False
        status = processes.from_main(self._begin_folder)
        self.is_shared = all(processes.from_all(read_status(self.dir) == status))
        """True if all processes see the folder: on several machines, this takes a shared file system."""
        if not self.is_shared:
            refuse_to_begin_anew(steps_of(self.config, self.dir), self.dir, processes)
        if processes.peers is not None:
            processes.peers.on_end = self._tell_end

    def _warn_of_short_notice(self, save_seconds: float | None) -> None:
        """Warn if torchrun (or accelerate launch) would kill its processes after SIGTERM before they have saved."""
        notice = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))
        if slurm.TORCHRUN in os.environ and save_seconds is not None and save_seconds > notice:
            self.progress.warning(
                f"the last checkpoint took {save_seconds:.0f} s to write, but torchrun kills its processes "
                f"{notice:.0f} s after SIGTERM: "
                f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={math.ceil(2 * save_seconds + 30)}"
            )

    def _open(self, config: Config, default_name: str, check: Callable[[], None]) -> tuple[Path, Config | None]:
        """Lock the folder; return it with the config of the run that is in it. On the main process only."""
        path = choose_folder(config, default_name)
        check()
        self._lock = lock_folder(path)
        return path, config_to_keep(path)

    def _begin_folder(self) -> dict[str, Any]:
        """Write and open the files that only the main process has; return the status. Raises UsageError, DiskError."""
        try:
            self.progress.attach_log(self.dir / "log.txt")
            self.status = StatusFile(self.dir)
            self._warn_of_short_notice(self.status.save_seconds)
            if self._lock is None:
                self.progress.warning(f"{self.dir} is on a file system without locks: do not start another run in it")
            self.tracker = Tracker(self.dir, self.config.run.trackers)
            if not self._goes_on:
                self._write_about()
            self.status.write("running", 0, "start")
            return read_status(self.dir)
        except OSError as error:
            raise DiskError(f"cannot write to {self.dir}: {error}") from error

    def _write_about(self) -> None:
        write_text(self.dir / "config.yaml", to_yaml(self.config))
        self.write_json(GIVEN, {"given": sorted(self.config.given)})
        sign_config(self.dir)
        self.write_json("env.json", environment(self.processes))

    def begin(self) -> None:
        """Mark the start of training: from now on a signal means to save, and a hang is an error. Raises DiskError."""
        signals.first_does(None)
        self._has_begun = True
        if self._goes_on and self.status is not None:  # not earlier: a refused start must change nothing
            try:
                self._write_about()
            except OSError as error:
                raise DiskError(f"cannot write to {self.dir}: {error}") from error
        if self.tracker is not None:
            self.tracker.start_senders()
        self.processes.expect_progress(self.config.run.hang_timeout)

    def leave_before_training(self, signal_name: str) -> None:
        """End all processes at a signal before training, when there is nothing to save.

        Raises Preempted instead if the process is not ours to end.
        """
        departure = Departure(self.processes.rank, Preempted.exit_code, f"{signal_name} before training began")
        if self.processes.peers is not None:
            self.processes.peers.leave(departure.exit_code, departure.reason)
        if signals.are_borrowed():
            raise Preempted(f"{departure.reason}: there is nothing to save.")
        os._exit(self._tell_end(departure))

    def _tell_end(self, departure: Departure) -> int:
        """Report why a process ends while its main thread may be anywhere; return its exit code."""
        preempted = departure.exit_code == Preempted.exit_code
        state = "preempted" if preempted else "failed"
        self.write_end(state, str(departure), departure.main_is_gone, departure.exit_code)
        if self.processes.is_main or departure.main_is_gone:
            tell(f"{'' if preempted else 'error: '}{departure}")
        code = 0 if slurm.requeued(departure.exit_code) else departure.exit_code
        note_exit_code(code)
        note_reason(str(departure))
        return code

    def write_end(self, state: str, reason: str | None, main_is_gone: bool, exit_code: int | None = None) -> None:
        """Write the end to log.txt and status.json; if the main process was killed, another one writes status.json."""
        self.progress.close()
        self.progress.last_word(f"{state} at step {self.step:,}{f': {reason}' if reason else ''}")
        status = self.status
        if (
            main_is_gone
            and self.processes.rank == 1
            and self.is_shared
            and read_status(self.dir).get("state") == "running"
        ):
            status = StatusFile(self.dir)
        with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
            if status is not None and not self._has_begun:
                status.write_end_of_start(state, reason, exit_code)
            elif status is not None:
                status.write(state, self.step, "end", reason, exit_code)

    def counting(self, what: str) -> Callable[[int, int], None]:
        """Return a callback(done, total) for work that precedes training. Until it is done, a hang is an error."""

        def show(done: int, total: int) -> None:
            self.processes.expect_progress(self.config.run.hang_timeout if done < total else None)
            self.progress.working(what, done, total)
            if self.status is not None and not self._has_begun:  # a sweep sees from it that the run does not hang
                with contextlib.suppress(OSError):
                    self.status.write_if_due("running", 0, "start")

        return show

    def at(self, step: int, phase: str) -> None:
        """Record the run's step in status.json: cheap enough for every step."""
        self.step = step
        if self.status is None:
            return
        with contextlib.suppress(OSError):  # if the disk is full, the next checkpoint reports it, with its exit code
            if phase == "train":
                self.status.write_if_due("running", step, phase)
            else:
                self.status.write("running", step, phase)

    def saved_in(self, seconds: float) -> None:
        """Note how long a checkpoint took to write, which the notice before a kill has to allow for."""
        if self.status is not None:
            self.status.save_seconds = seconds

    def finish_because(self, reason: str) -> None:
        """Print why the run ends before its last step, and keep it for status.json."""
        self.reason = reason
        self.progress.note(reason)

    def track(self, **row: Any) -> None:
        """Add a row to metrics.csv and the trackers."""
        if self.tracker is not None:
            self.tracker.log(row)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file to the run folder, on the main process."""
        if self.processes.is_main:
            write_json(self.dir / name, value)

    def close(self) -> None:
        """Write what the trackers have buffered, and unlock the folder."""
        if self.tracker is not None:
            with contextlib.suppress(OSError):
                self.tracker.close()
        if self._lock is not None:
            self._lock.close()
