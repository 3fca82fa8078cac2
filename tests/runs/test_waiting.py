"""While a run waits for its processes, its status says so, and no other run's does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ranks import SERVER
from variants import variant

from distcls.cluster.processes import Processes
from distcls.errors import MissingProcessError, Preempted, UsageError
from distcls.runs import waiting
from distcls.runs.resuming import lock_folder
from distcls.runs.status import StatusFile, read_status, state_of

CONFIG = variant(run__name="a")
RUN = Path("runs/a")


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """Calls `joined` with processes of which one is missing, and which then end like this."""
    monkeypatch.chdir(tmp_path)

    def call(then: Exception | None, check=lambda: None) -> Processes | None:
        def processes(device, hang_timeout, note_missing):
            note_missing("process 0 is waiting for process 1 of 2 to start")
            if then is not None:
                raise then

        monkeypatch.setattr(waiting, "Processes", processes)
        return waiting.joined(CONFIG, "default", check)

    return call


def test_the_status_says_who_is_missing_and_the_folder_is_free_again(server, joined):
    assert joined(None) is None
    status = read_status(RUN)
    assert (status["state"], status["reason"]) == ("running", "process 0 is waiting for process 1 of 2 to start")
    assert state_of_elsewhere() == "killed"  # that is, unlocked: RunFolder locks it in a moment


def state_of_elsewhere() -> str | None:
    with SERVER.Pool(1) as pool:  # not forked from this process, which has threads
        return pool.apply(state_of, [RUN.resolve()])


@pytest.mark.parametrize(("error", "state"), [(MissingProcessError("gone"), "failed"), (Preempted("x"), "preempted")])
def test_a_start_that_fails_is_told_and_keeps_the_step(joined, error, state):
    RUN.mkdir(parents=True)
    StatusFile(RUN).write("preempted", 9, "end")
    with pytest.raises(type(error)):
        joined(error)
    status = read_status(RUN)
    assert (status["state"], status["reason"], status["step"]) == (state, str(error), 9)


def hold(path: Path, held) -> None:
    lock = lock_folder(path)
    held.set()
    time.sleep(60)
    print(lock)


def test_nothing_is_written_into_the_folder_of_another_run(server, joined):
    held = SERVER.Event()
    other = SERVER.Process(target=hold, args=(RUN.resolve(), held), daemon=True)
    other.start()
    try:
        assert held.wait(60)
        StatusFile(RUN).write("running", 7, "train")
        joined(None)
        assert read_status(RUN)["phase"] == "train"
    finally:
        other.kill()
        other.join()


def test_a_finished_run_stays_finished(joined):
    RUN.mkdir(parents=True)
    StatusFile(RUN).write("finished", 9, "end")
    joined(None)
    assert read_status(RUN)["state"] == "finished"


def test_a_start_that_will_be_refused_makes_no_folder(joined):
    def check() -> None:
        raise UsageError("no such model")

    joined(None, check)
    assert not RUN.exists()
