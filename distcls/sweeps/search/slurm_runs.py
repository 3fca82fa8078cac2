"""Trains trials as jobs of Slurm, in arrays. Only the sweep decides which; the jobs know nothing of it.

Jobs outlive a sweep that is killed. So what is submitted is noted in jobs.json before and after sbatch, under a name
that no other job has: a sweep that is started again finds its jobs in the queue, and submits none twice.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distcls.cluster import signals
from distcls.cluster.slurm import NoAnswerError
from distcls.errors import DistclsError, UsageError, tell
from distcls.files.atomic import naming_disk_errors, write_json
from distcls.runs.status import is_finished, read_object, read_status
from distcls.sweeps.search.trial_run import INTERRUPTED, TrialRun, code_of, last_line

FILE = "jobs.json"

LOOK = 2.0
"""Seconds between two questions to Slurm."""

GONE = 6.0
"""A job has ended once it has been out of the queue for so many seconds: by then other machines' files are seen."""

FIRST_ANSWER = 180.0
"""How long to wait at the start for Slurm's list of jobs: without it, queued jobs would be submitted again."""

AGAIN = 10.0
"""Seconds before sbatch is called again if Slurm did not answer."""

OUTAGE = 3600.0
"""How long to call it again and again."""

RESUME = "Jobs already in the queue continue. Once Slurm answers, run the same command to resume."

SECONDS_TO_STOP = 600.0
"""How long to wait for a job that was cancelled."""

FILTERS = ("SQUEUE_", "SCANCEL_")
"""How the variables begin that give Slurm's commands options."""

ANSWER = 60
"""Seconds that Slurm's commands get to answer."""


class Submitted(NamedTuple):
    """A job, or an element of an array."""

    job: str
    """Its id, such as 17 or 17_2."""
    output: str
    """The file with what it prints."""


Submit = Callable[[str, Sequence[TrialRun]], list[Submitted]]
"""Submits runs as one array with this name. Raises NoAnswerError if Slurm does not answer."""


class SlurmRuns:
    """Jobs of Slurm, at most as many at once as there are slots."""

    def __init__(self, folder: Path, slots: int, submit: Submit) -> None:
        self.slots = slots
        self._file = folder / FILE
        self._submit = submit
        self._jobs: dict[str, dict[str, Any]] = read_object(self._file)
        """For each run its job and output; if the sweep was killed in sbatch, the array's name and the place in it."""
        self._queue: dict[str, str] = {}
        """Names of the jobs in the queue, by id."""
        self._states: dict[str, str] = {}
        """RUNNING, PENDING and so on, by id."""
        self._unanswered: set[str] = set()
        """Names of arrays that may be queued although sbatch did not say so: they are cancelled where they appear."""
        self._asked_at = 0.0
        self._has_answered = False
        self._seen_at: dict[str, float] = {}
        self._to_stop: set[str] = set()
        """Runs whose jobs are to be cancelled."""
        self._stopped_at: dict[str, float] = {}
        """When Slurm agreed to cancel the job of a run."""
        self._ended: dict[str, dict[str, Any]] = {}
        """The last job of each run whose job has ended."""

    def release(self, keep: Collection[str]) -> None:
        """Cancel jobs that a killed sweep left, whose trials have ended since."""
        self._look_at_first()
        for name in [name for name in self._jobs if name not in keep]:
            if self._job_of(name) is None:
                del self._jobs[name]
            else:
                self._stop(name)
        self._write()

    def start(self, runs: Sequence[TrialRun]) -> None:
        """Submit the runs that are not in the queue yet. Raises DistclsError if Slurm does not answer for long."""
        self._look_at_first()
        self._look()
        new = [run for run in runs if self._job_of(run.name) is None]
        if new and not self._try_to_submit(new):
            tell(f"Slurm does not answer sbatch: trying again every {AGAIN:.0f} s for up to {OUTAGE / 60:.0f} minutes")
            self._keep_submitting(new)
        self._seen_at |= dict.fromkeys([*self._seen_at, *(run.name for run in runs)], time.monotonic())

    def _keep_submitting(self, runs: Sequence[TrialRun]) -> None:
        end = time.monotonic() + OUTAGE
        while signals.received() is None:
            time.sleep(AGAIN)
            if self._try_to_submit(runs):
                return
            if time.monotonic() > end:
                raise DistclsError(f"Slurm has not answered sbatch for {OUTAGE / 60:.0f} minutes. {RESUME}")

    def _try_to_submit(self, runs: Sequence[TrialRun]) -> bool:
        """Submit these runs; return False if Slurm does not answer."""
        array = f"distcls-{uuid.uuid4().hex[:12]}"
        self._jobs |= {run.name: {"array": array, "place": place} for place, run in enumerate(runs)}
        self._write()
        try:
            jobs = self._submit(array, runs)
        except NoAnswerError:
            # Jobs that are queued all the same could not train: submitit stores what they do once sbatch has answered.
            self._unanswered.add(array)
            for run in runs:
                del self._jobs[run.name]
            self._write()
            return False
        self._jobs |= {run.name: job._asdict() for run, job in zip(runs, jobs, strict=True)}
        self._write()
        self._asked_at = 0.0
        return True

    def code(self, run: TrialRun) -> int | None:
        """Return the exit code of a run whose job has left the queue, or INTERRUPTED, or None.

        After SECONDS_TO_STOP, a cancelled job that is still queued no longer delays the sweep, but it stays in
        jobs.json: starting the run again waits for it.
        """
        if time.monotonic() > self._asked_at + LOOK:
            self._look()
        now = time.monotonic()
        stopped, is_queued = self._stopped_at.get(run.name), self._job_of(run.name) is not None
        if is_queued:
            self._seen_at[run.name] = now
            if stopped is None or now < stopped + SECONDS_TO_STOP:
                return None
        elif not is_finished(run.dir) and now < self._seen_at[run.name] + GONE:
            return None
        self._to_stop.discard(run.name)
        self._stopped_at.pop(run.name, None)
        if not is_queued:
            self._ended[run.name] = self._jobs.pop(run.name, {})
            self._write()
        status = read_status(run.dir)
        code = code_of(status.get("state"), status)
        return self._code_of_job(run.name, status.get("state")) if code == INTERRUPTED and not is_queued else code

    def _code_of_job(self, name: str, state: str | None) -> int:
        """Return the exit code of a job that wrote no end to status.json: it had no folder, or its disk was full."""
        job = self._ended[name].get("job")
        shown = None if job is None else _call("scontrol", "show", "job", "-o", job)
        match = re.search(r"JobState=FAILED.* ExitCode=(\d+):0", shown or "")
        code = int(match[1]) if match else 0
        is_in_use = code == UsageError.exit_code and state == "running"  # by another process
        return code if 0 < code < 128 and not is_in_use else INTERRUPTED

    def stop(self, run: TrialRun) -> None:
        """Cancel a job: it saves and does not return to the queue. If Slurm does not answer, it is asked again."""
        self._stop(run.name)

    def _stop(self, name: str) -> None:
        self._to_stop.add(name)
        job = self._job_of(name) or self._jobs.get(name, {}).get("job")  # the queue may be older than the job
        if job is not None and name not in self._stopped_at and _call("scancel", job) is not None:
            self._stopped_at[name] = time.monotonic()

    def waits(self, run: TrialRun) -> bool:
        """True if the job is queued again or suspended: that is no fault of its run."""
        job = self._job_of(run.name)
        return job is not None and self._states.get(job) != "RUNNING"

    def kill(self, run: TrialRun) -> None:
        """Cancel a job that hangs."""
        self.stop(run)

    def last_words(self, run: TrialRun) -> str:
        """Return the last line that the job printed."""
        noted = self._jobs.get(run.name) or self._ended.get(run.name, {})
        output = noted.get("output")
        return last_line(Path(output), skipping=("srun: ", "slurmstepd: ")) if output else ""

    def _job_of(self, name: str) -> str | None:
        """Return the id of a run's job if that is in the queue."""
        noted = self._jobs.get(name, {})
        if "job" in noted:
            return noted["job"] if noted["job"] in self._queue else None
        ids = [job for job, title in self._queue.items() if "array" in noted and title == noted["array"]]
        return next((job for job in ids if "_" not in job or job.endswith(f"_{noted['place']}")), None)

    def _look_at_first(self) -> None:
        """Look until Slurm has answered once."""
        end = time.monotonic() + FIRST_ANSWER
        while not self._has_answered:
            self._look()
            if self._has_answered:
                return
            if time.monotonic() > end or signals.received() is not None:
                raise DistclsError(
                    f"Slurm does not answer (squeue --me), so distcls cannot tell which trials are running. {RESUME}"
                )
            time.sleep(LOOK)

    def _look(self) -> None:
        """Ask for the queue; what was known stays if Slurm does not answer."""
        self._asked_at = time.monotonic()
        # --all: jobs in hidden partitions, too
        answer = _call("squeue", "--me", "--all", "--noheader", "--array", "--format", "%i %T %j")
        if answer is not None:
            self._has_answered = True
            lines = (line.strip().split(maxsplit=2) for line in answer.splitlines())
            jobs = [fields for fields in lines if len(fields) == 3]
            self._queue = {job: name for job, _, name in jobs}
            self._states = {job: state for job, state, _ in jobs}
            for array in self._unanswered.intersection(self._queue.values()):
                _call("scancel", f"--name={array}")
            for name in [name for name in self._to_stop if self._job_of(name) is not None]:
                self._stop(name)  # again, if Slurm did not take it the first time
        else:
            self._seen_at = dict.fromkeys(self._seen_at, time.monotonic())

    def _write(self) -> None:
        with naming_disk_errors(self._file):
            write_json(self._file, self._jobs)


def _call(*words: str) -> str | None:
    """Return what a command of Slurm prints; None if it fails."""
    # Without the user's own filters, such as SQUEUE_STATES, which would hide jobs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FILTERS)}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
