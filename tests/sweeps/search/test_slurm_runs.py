"""No run is submitted twice, wherever the sweep was killed, and a Slurm that does not answer ends nothing.

Slurm is made up here; tests/slurm has a real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_runs import write

from distcls.cluster.slurm import NoAnswerError
from distcls.config.settings import Config
from distcls.errors import DistclsError
from distcls.sweeps.search import slurm_runs
from distcls.sweeps.search.slurm_runs import SlurmRuns, Submitted
from distcls.sweeps.search.trial_run import INTERRUPTED, TrialRun


class MadeSlurm:
    """A queue of jobs. `dies` is when sbatch takes the sweep with it: before or after the jobs are queued."""

    def __init__(self) -> None:
        self.queue: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.arrays: list[list[str]] = []
        self.cancelled: list[str] = []
        self.dies: str | None = None
        self.answers = True
        self.unanswered: set[str] = set()
        """Commands that fail; for sbatch, once."""
        self.keeps = False
        """Whether cancelled jobs stay in the queue."""
        self.shown: dict[str, str] = {}

    def submit(self, name: str, runs: Sequence[TrialRun]) -> list[Submitted]:
        if self.dies == "before":
            raise KeyboardInterrupt
        number = 100 + len(self.arrays)
        self.arrays.append([run.name for run in runs])
        jobs = [f"{number}"] if len(runs) == 1 else [f"{number}_{place}" for place in range(len(runs))]
        self.queue |= dict.fromkeys(jobs, name)
        if self.dies == "after":
            raise KeyboardInterrupt
        if "sbatch" in self.unanswered:
            self.unanswered = set()
            raise NoAnswerError("Socket timed out")
        return [Submitted(job, f"{job}.out") for job in jobs]

    def call(self, command: str, *words: str) -> str | None:
        if not self.answers or command in self.unanswered:
            return None
        if command == "scontrol":
            return self.shown.get(words[-1])
        if command == "scancel":
            self.cancelled.append(words[0])
            if words[0].startswith("--name="):
                name = words[0].removeprefix("--name=")
                self.queue = {job: title for job, title in self.queue.items() if title != name}
            if not self.keeps:
                self.queue.pop(words[0], None)
            return ""
        assert command == "squeue"
        return "".join(f"{job} {self.states.get(job, 'RUNNING')} {name}\n" for job, name in self.queue.items())


@pytest.fixture
def slurm(monkeypatch) -> MadeSlurm:
    made = MadeSlurm()
    monkeypatch.setattr(slurm_runs, "_call", made.call)
    monkeypatch.setattr(slurm_runs, "LOOK", -1.0)
    monkeypatch.setattr(slurm_runs, "GONE", -1.0)
    return made


def make_runs(folder: Path, *names: str) -> list[TrialRun]:
    runs = [TrialRun(place, folder / name, (), Config()) for place, name in enumerate(names)]
    for run in runs:
        run.dir.mkdir(exist_ok=True)
    return runs


def ended(run: TrialRun, state: str) -> None:
    write(run.dir, "status", {"state": state})


def test_a_job_that_is_suspended_or_queued_again_waits(slurm, tmp_path) -> None:
    runs, here = make_runs(tmp_path, "a", "b"), SlurmRuns(tmp_path, 2, slurm.submit)
    slurm.states = {"100_1": "SUSPENDED"}
    here.start(runs)
    assert [here.code(run) for run in runs] == [None, None]
    assert [here.waits(run) for run in runs] == [False, True]


def test_filters_of_the_user_hide_no_jobs(monkeypatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "R")
    assert slurm_runs._call("sh", "-c", "echo $SQUEUE_STATES") == "\n"


def test_a_batch_is_one_array_and_ends_one_by_one(slurm, tmp_path) -> None:
    runs, here = make_runs(tmp_path, "a", "b", "c"), SlurmRuns(tmp_path, 3, slurm.submit)
    here.start(runs)
    assert slurm.arrays == [["a", "b", "c"]] and [here.code(run) for run in runs] == [None] * 3
    ended(runs[0], "finished")
    ended(runs[1], "failed")
    ended(runs[2], "preempted")
    assert [here.code(run) for run in runs] == [None] * 3, "they are in the queue still"
    slurm.queue.clear()
    assert [here.code(run) for run in runs] == [0, 1, INTERRUPTED]
    here.start(runs[2:])
    assert slurm.arrays[1:] == [["c"]]


@pytest.mark.parametrize("dies", [None, "before", "after"])
@pytest.mark.parametrize("names", ["ab", "a"])
def test_a_sweep_that_is_killed_finds_its_jobs_again(slurm, tmp_path, dies, names) -> None:
    runs: Any = make_runs(tmp_path, *names)
    slurm.dies = dies
    try:
        SlurmRuns(tmp_path, 2, slurm.submit).start(runs)
    except KeyboardInterrupt:
        slurm.dies = None
    again = SlurmRuns(tmp_path, 2, slurm.submit)
    again.release([run.name for run in runs])
    again.start(runs)
    assert slurm.arrays == [list(names)], "exactly once"
    assert [again.code(run) for run in runs] == [None] * len(names) and not slurm.cancelled
    again.stop(runs[0])
    again.stop(runs[0])
    assert slurm.cancelled == ["100_0" if len(names) == 2 else "100"]
    assert again.code(runs[0]) == INTERRUPTED


def test_jobs_of_trials_that_have_ended_are_cancelled(slurm, tmp_path) -> None:
    runs = make_runs(tmp_path, "a", "b")
    SlurmRuns(tmp_path, 2, slurm.submit).start(runs)
    SlurmRuns(tmp_path, 2, slurm.submit).release(["b"])
    assert slurm.cancelled == ["100_0"]


def test_a_slurm_that_does_not_answer_ends_nothing(slurm, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slurm_runs, "GONE", 0.5)
    (run,) = make_runs(tmp_path, "a")
    here = SlurmRuns(tmp_path, 1, slurm.submit)
    here.start([run])
    slurm.answers = False
    assert here.code(run) is None
    slurm.queue.clear()
    slurm.answers = True
    assert here.code(run) is None, "a job may leave the queue a moment before its files are seen"


def test_the_last_line_of_a_job(slurm, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (run,) = make_runs(tmp_path, "a")
    here = SlurmRuns(tmp_path, 1, slurm.submit)
    assert here.last_words(run) == ""
    here.start([run])
    Path("100.out").write_text("one\ndistcls: error: two\n")
    assert here.last_words(run) == "distcls: error: two"


def test_an_sbatch_without_an_answer_is_called_again(slurm, tmp_path, monkeypatch, capsys) -> None:
    """The job that it queued all the same is cancelled as soon as Slurm shows it."""
    monkeypatch.setattr(slurm_runs, "AGAIN", 0.0)
    runs, here = make_runs(tmp_path, "a", "b"), SlurmRuns(tmp_path, 2, slurm.submit)
    slurm.unanswered = {"sbatch"}
    here.start(runs)
    assert slurm.arrays == [["a", "b"]] * 2 and "does not answer sbatch" in capsys.readouterr().err
    assert [here.code(run) for run in runs] == [None, None]
    assert list(slurm.queue) == ["101_0", "101_1"], "none is queued twice"
    again = SlurmRuns(tmp_path, 2, slurm.submit)
    again.start(runs)
    assert len(slurm.arrays) == 2


def test_a_slurm_that_never_answers_ends_a_sweep_and_leaves_no_job_to_be_taken_over(
    slurm, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(slurm_runs, "AGAIN", 0.0)
    monkeypatch.setattr(slurm_runs, "OUTAGE", -1.0)
    (run,) = make_runs(tmp_path, "a")

    def never(name, runs):
        slurm.queue["7"] = name
        raise NoAnswerError("Socket timed out")

    with pytest.raises(DistclsError, match="Once Slurm answers, run the same command to resume"):
        SlurmRuns(tmp_path, 1, never).start([run])
    SlurmRuns(tmp_path, 1, slurm.submit).start([run])
    assert slurm.arrays == [["a"]], "the lost job is not mistaken for the trial's"


def test_its_last_line_is_known_after_it_has_ended(slurm, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (run,) = make_runs(tmp_path, "a")
    here = SlurmRuns(tmp_path, 1, slurm.submit)
    here.start([run])
    Path("100.out").write_text("distcls: error: no data\nsrun: error: node1: task 0: Exited with exit code 66\n")
    slurm.queue.clear()
    assert here.code(run) == INTERRUPTED and here.last_words(run) == "distcls: error: no data"


def test_a_job_that_stays_in_the_queue_is_not_waited_for_for_ever(slurm, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slurm_runs, "GONE", 6.0)
    (run,) = make_runs(tmp_path, "a")
    here = SlurmRuns(tmp_path, 1, slurm.submit)
    here.start([run])
    slurm.keeps = True
    here.stop(run)
    assert here.code(run) is None
    monkeypatch.setattr(slurm_runs, "SECONDS_TO_STOP", 0.0)
    assert here.code(run) == INTERRUPTED
    here.start([run])
    assert slurm.arrays == [["a"]], "it is there still: no second job"
    assert here.code(run) is None


def test_a_job_is_cancelled_again_until_slurm_takes_it(slurm, tmp_path) -> None:
    (run,) = make_runs(tmp_path, "a")
    here = SlurmRuns(tmp_path, 1, slurm.submit)
    here.start([run])
    slurm.unanswered = {"scancel"}
    here.stop(run)
    assert here.code(run) is None and not slurm.cancelled
    slurm.unanswered = set()
    here.code(run)
    assert slurm.cancelled == ["100"] and here.code(run) == INTERRUPTED


def test_a_job_is_cancelled_before_it_is_seen_in_the_queue(slurm, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slurm_runs, "LOOK", 60.0)
    (run,) = make_runs(tmp_path, "a")
    here = SlurmRuns(tmp_path, 1, slurm.submit)
    here.start([run])
    here.stop(run)
    assert slurm.cancelled == ["100"]


def test_jobs_that_were_left_are_cancelled_again_too(slurm, tmp_path) -> None:
    runs = make_runs(tmp_path, "a", "b")
    SlurmRuns(tmp_path, 2, slurm.submit).start(runs)
    again = SlurmRuns(tmp_path, 2, slurm.submit)
    slurm.unanswered = {"scancel"}
    again.release(["b"])
    slurm.unanswered = set()
    again.start(runs[1:])
    assert slurm.cancelled == ["100_0"] and len(slurm.arrays) == 1


def test_nothing_is_submitted_before_slurm_has_said_what_there_is(slurm, tmp_path, monkeypatch) -> None:
    runs = make_runs(tmp_path, "a", "b")
    SlurmRuns(tmp_path, 2, slurm.submit).start(runs)
    noted = (tmp_path / slurm_runs.FILE).read_text()
    monkeypatch.setattr(slurm_runs, "LOOK", 0.0)
    monkeypatch.setattr(slurm_runs, "FIRST_ANSWER", -1.0)
    again = SlurmRuns(tmp_path, 2, slurm.submit)
    slurm.answers = False
    for ask in (lambda: again.release(["a", "b"]), lambda: again.start(runs)):
        with pytest.raises(DistclsError, match=r"Slurm does not answer .*run the same command to resume"):
            ask()
    assert (tmp_path / slurm_runs.FILE).read_text() == noted and len(slurm.arrays) == 1
    monkeypatch.setattr(slurm_runs, "FIRST_ANSWER", 60.0)
    monkeypatch.setattr(slurm_runs.time, "sleep", lambda _: setattr(slurm, "answers", True))
    again.release(["a", "b"])
    again.start(runs)
    assert len(slurm.arrays) == 1, "it was asked until it answered"


FAILED = "JobId=100 JobState={} Reason=NonZeroExitCode Restarts=0 ExitCode={} RunTime=00:00:04 DerivedExitCode=0:0\n"


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        ({"state": "failed", "exit_code": 65}, "", 65),
        ({"state": "failed"}, "", 1),
        (None, FAILED.format("FAILED", "66:0"), 66),
        (None, FAILED.format("FAILED", "137:0"), INTERRUPTED),
        (None, FAILED.format("FAILED", "0:53"), INTERRUPTED),
        (None, FAILED.format("NODE_FAIL", "1:0"), INTERRUPTED),
        (None, FAILED.format("CANCELLED", "0:15"), INTERRUPTED),
        (None, "", INTERRUPTED),
        ({"state": "preempted"}, FAILED.format("FAILED", "66:0"), 66),
        ({"state": "running"}, FAILED.format("FAILED", "74:0"), 74),  # a full disk takes no status
        ({"state": "running"}, FAILED.format("FAILED", "2:0"), INTERRUPTED),  # another job has its folder
    ],
)
def test_why_a_job_ended(slurm, tmp_path, status, shown, code) -> None:
    (run,) = make_runs(tmp_path, "a")
    here = SlurmRuns(tmp_path, 1, slurm.submit)
    here.start([run])
    if status is not None:
        write(run.dir, "status", status)
    slurm.shown["100"] = shown
    slurm.queue.clear()
    assert here.code(run) == code
