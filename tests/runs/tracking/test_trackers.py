"""`run.trackers` names what there is, and a finished run waits for it, but not for long."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distcls.cluster import signals
from distcls.errors import UsageError
from distcls.files.atomic import write_json
from distcls.runs.tracking import trackers
from distcls.runs.tracking.trackers import Tracker


def test_unknown_tracker_lists_the_known(tmp_path):
    with pytest.raises(UsageError, match=r"'tensorbord'.*: give tensorboard"):
        Tracker(tmp_path, ["tensorbord"])
    assert not (tmp_path / "metrics.csv").exists()


@pytest.fixture
def ended(tmp_path, monkeypatch) -> Iterator[Callable[[str], Tracker]]:
    """Makes the tracker of a run that has ended, whose sender then runs this code."""
    begun: list[subprocess.Popen] = []

    def make(code: str) -> Tracker:
        def start(run_dir: Path, name: str) -> subprocess.Popen:
            words = [sys.executable, "-c", f"import sys, time; sys.stdin.read(); {code}"]
            begun.append(subprocess.Popen(words, stdin=subprocess.PIPE))
            return begun[-1]

        monkeypatch.setattr(trackers, "start_sender", start)
        tracker = Tracker(tmp_path, ["wandb"])
        tracker.start_senders()
        assert tracker.sending() == ["wandb"]
        tracker.close()
        return tracker

    monkeypatch.setattr(trackers, "check_trackers", lambda names: None)
    yield make
    for process in begun:
        process.kill()
        process.wait()


def test_a_finished_run_waits_until_the_rest_is_sent(ended):
    tracker = ended("time.sleep(0.5)")
    assert tracker.wait() == [] and tracker.sending() == []


def test_a_sender_that_fails_is_told(ended):
    assert ended("sys.exit(1)").wait() == ["wandb"]


@pytest.mark.parametrize("reason", ["time is up", "a signal", "it could not be reached"])
def test_the_wait_is_short(ended, tmp_path, monkeypatch, reason):
    tracker = ended("time.sleep(100)")
    if reason == "time is up":
        monkeypatch.setattr(trackers, "SECONDS_TO_WAIT", 0.3)
    elif reason == "a signal":
        monkeypatch.setattr(signals, "received", lambda: "SIGTERM")
    else:
        (tmp_path / "trackers").mkdir()
        write_json(tmp_path / "trackers" / "wandb.json", {"problem": "ConnectionError: no route to host"})
    started = time.monotonic()
    assert tracker.wait() == ["wandb"] and time.monotonic() - started < 20


def test_a_run_without_services_waits_for_nothing(tmp_path):
    tracker = Tracker(tmp_path, [])
    tracker.start_senders()
    tracker.close()
    assert tracker.sending() == [] and tracker.wait() == []
