"""Trains trials on this machine, each as a process of its own that ends with the sweep.

The kernel sends them SIGTERM when the sweep is gone, however it ended: they save, and the next start of the sweep waits
for the folders' locks before it resumes them. So no trial is orphaned, and none is trained twice at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from distcls.cluster import signals
from distcls.cluster.child_processes import end_with_parent
from distcls.errors import UsageError
from distcls.files.atomic import naming_disk_errors
from distcls.runs.status import is_training, read_status, state_of
from distcls.sweeps.search.trial_run import INTERRUPTED, TrialRun, code_of, last_line

OUTPUT = "output"
"""Folder for what the processes print."""

SECONDS_TO_STOP = 600.0
"""A process that was asked to stop and has not saved after this time is killed."""

GPUS = Path("/proc/driver/nvidia/gpus")


class LocalRuns:
    """Processes of `distcls train`, at most as many at once as there are slots."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder = folder
        self.slots = slots
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._adopted: set[str] = set()
        """Runs that another process trains, such as one that a killed sweep left and that is still saving."""
        self._given_up: set[str] = set()
        self._ended: dict[str, int] = {}
        """The processes of ours that have ended, by run: a status may still say that they train."""
        self._stopped_at: dict[str, float] = {}
        self._gpu_of: dict[str, str] = {}
        self._gpus = visible_gpus()

    def release(self, keep: Collection[str]) -> None:
        """Do nothing: the kernel has stopped what a killed sweep left."""

    def start(self, runs: Sequence[TrialRun]) -> None:
        """Start these runs. One that is being trained by another process is waited for instead."""
        for run in runs:
            if self._is_training(run):
                self._adopted.add(run.name)
                continue
            self._processes[run.name] = self._open(run)

    def code(self, run: TrialRun) -> int | None:
        """Return the exit code of a run that was started and has ended, INTERRUPTED, or None while it is trained."""
        if run.name in self._given_up:
            self._given_up.discard(run.name)
            return INTERRUPTED
        if run.name in self._adopted:
            return self._code_of_adopted(run)
        process = self._processes[run.name]
        code = process.poll()
        if code is None:
            stopped = self._stopped_at.get(run.name)
            if stopped is not None and time.monotonic() > stopped + SECONDS_TO_STOP:
                process.kill()
            return None
        self._ended[run.name] = process.pid
        del self._processes[run.name]
        self._stopped_at.pop(run.name, None)
        self._gpu_of.pop(run.name, None)
        if code == UsageError.exit_code and self._is_training(run):  # another process was faster
            self._adopted.add(run.name)
            return None
        return INTERRUPTED if code < 0 or code >= 128 else code

    def _code_of_adopted(self, run: TrialRun) -> int | None:
        if self._is_training(run):
            return None
        self._adopted.discard(run.name)
        return code_of(state_of(run.dir), read_status(run.dir))

    def _is_training(self, run: TrialRun) -> bool:
        """True if a process other than ours is training the run."""
        return is_training(run.dir) and read_status(run.dir).get("pid") != self._ended.get(run.name, -1)

    def stop(self, run: TrialRun) -> None:
        """Ask a run to save and stop; does nothing the second time. One that is not ours is no longer waited for."""
        process = self._processes.get(run.name)
        if process is None:
            self._give_up(run)
        elif run.name not in self._stopped_at:
            self._stopped_at[run.name] = time.monotonic()
            process.terminate()

    def waits(self, run: TrialRun) -> bool:
        """Return False: a process of this machine is never kept waiting."""
        return False

    def kill(self, run: TrialRun) -> None:
        """End a run that hangs. One that is not ours is no longer waited for."""
        process = self._processes.get(run.name)
        if process is None:
            self._give_up(run)
        else:
            process.kill()

    def _give_up(self, run: TrialRun) -> None:
        self._adopted.discard(run.name)
        self._given_up.add(run.name)

    def last_words(self, run: TrialRun) -> str:
        """Return the last line that the process printed."""
        return last_line(self._log(run))

    def _log(self, run: TrialRun) -> Path:
        return self.folder / OUTPUT / f"{run.name}.log"

    def _open(self, run: TrialRun) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if len(self._gpus) > 1:
            in_use = list(self._gpu_of.values())
            self._gpu_of[run.name] = min(self._gpus, key=in_use.count)
            environment["CUDA_VISIBLE_DEVICES"] = self._gpu_of[run.name]
        with naming_disk_errors(self._log(run)):
            self._log(run).parent.mkdir(exist_ok=True)
            with self._log(run).open("wb") as log:
                return subprocess.Popen(
                    [sys.executable, "-m", "distcls.train", *run.words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    process_group=0,  # Ctrl-C reaches the sweep, which passes it on
                    preexec_fn=partial(_prepare, os.getpid()),
                )


def _prepare(sweep: int) -> None:
    """In the new process: stop when the sweep is gone, and hear signals, which are blocked while the sweep forks."""
    for number in signals.heard_signals():  # the sweep's handlers would swallow one that arrives before its program
        signal.signal(number, signal.SIG_DFL)
    end_with_parent(signal.SIGTERM, sweep)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOP_SIGNALS)


def visible_gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES may be, to give each trial a GPU of its own; nothing without GPUs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    return [str(number) for number, _ in enumerate(GPUS.glob("*"))]


def failure(run: TrialRun, last_words: str) -> str:
    """Return why a run failed, in a sentence: from its status, or else from what it printed."""
    status = read_status(run.dir)
    reason = status.get("reason") if status.get("state") == "failed" else None
    return " ".join(str(reason or last_words.removeprefix("distcls: error: ") or "it did not say why").split())
