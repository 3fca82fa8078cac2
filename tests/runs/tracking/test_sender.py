"""Each row reaches a service once, however often the service, the sender or the run stops."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from runs_to_send import append_rows, make_run

from distcls.errors import UsageError
from distcls.files.atomic import read_json, write_json
from distcls.runs.tracking import sender
from distcls.runs.tracking.sender import Sender, problems, send_all, state_file
from distcls.runs.tracking.trackers import check_trackers


class Stub:
    """A service that keeps what it is sent, and fails when it is told to."""

    received: ClassVar[list[tuple[int, int]]] = []
    files: ClassVar[list[str]] = []
    connections = 0
    fails: str | None = None
    tells = False

    def __init__(self, about: Any) -> None:
        if Stub.fails == "connect":
            raise ConnectionError("no route to host")
        Stub.connections += 1
        about.state.setdefault("id", "abc")
        assert about.state["id"] == "abc" and about.settings["train.seed"] == 0

    def sent(self) -> int | None:
        return len(Stub.received) if Stub.tells else None

    def send(self, rows: Any, first: int) -> None:
        for place, row in enumerate(rows, start=first):
            if Stub.fails == "send" and place >= 3:
                raise TimeoutError("it took too long")
            Stub.received.append((place, row["step"]))

    def end(self, results: Any, files: Any) -> None:
        Stub.files = [path.name for path in files]

    def close(self) -> None:
        if Stub.fails == "close":
            raise TimeoutError("still sending")


@pytest.fixture
def run_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(sender.SERVICES, "wandb", Stub)
    monkeypatch.setattr(sender, "RETRY", 0.0)
    monkeypatch.setattr(sender, "SECONDS_FOR_REPORT", 0.0)
    Stub.received, Stub.files, Stub.connections, Stub.fails, Stub.tells = [], [], 0, None, False
    return make_run(tmp_path / "run")


def test_rows_are_sent_once(run_dir):
    append_rows(run_dir, range(1, 5), checkpoint=3)
    with Sender(run_dir, "wandb") as sending:
        assert sending.catch_up() == 3 and sending.catch_up() == 0
        append_rows(run_dir, range(5, 8), checkpoint=7)
        assert sending.catch_up() == 4
    assert Stub.received == [(step - 1, step) for step in range(1, 8)] and Stub.connections == 1
    with Sender(run_dir, "wandb") as again:  # another process goes on where this one ended
        assert again.catch_up() == 0
    assert read_json(state_file(run_dir, "wandb"))["rows"] == 7


def test_a_service_that_cannot_be_reached_gets_all_of_it_later(run_dir):
    append_rows(run_dir, range(1, 6), checkpoint=5)
    Stub.fails = "connect"
    (line,), failed = send_all(run_dir, ["wandb"])
    assert failed and line == "wandb: ConnectionError: no route to host"
    assert problems(run_dir, ["wandb"]) == ["wandb could not be reached (ConnectionError: no route to host)"]
    Stub.fails = None
    (line,), failed = send_all(run_dir, ["wandb"])
    assert not failed and line.startswith("wandb: 5 rows, 5 of them new")
    assert problems(run_dir, ["wandb"]) == []


def test_a_service_that_can_say_what_it_has_is_asked(run_dir):
    """Sent in part, then failed: what has arrived is not sent again after the next connection."""
    append_rows(run_dir, range(1, 6), checkpoint=5)
    Stub.fails, Stub.tells = "send", True
    assert send_all(run_dir, ["wandb"])[1]
    Stub.fails = None
    assert not send_all(run_dir, ["wandb"])[1]
    assert Stub.received == [(step - 1, step) for step in range(1, 6)]


def test_a_finished_run_is_sent_with_its_files_and_again_when_it_was_made_longer(run_dir):
    append_rows(run_dir, range(1, 4), checkpoint=3)
    send_all(run_dir, ["wandb"])
    assert Stub.files == [], "it has not finished"
    write_json(run_dir / "metrics.json", {})
    (run_dir / "model").mkdir()
    (run_dir / "model" / "model.safetensors").write_bytes(b"")
    write_json(run_dir / "status.json", {"state": "finished"})
    send_all(run_dir, ["wandb"])
    assert Stub.files == ["config.yaml", "metrics.json", "metrics.csv", "model.safetensors"]
    assert read_json(state_file(run_dir, "wandb"))["ended"]
    append_rows(run_dir, range(4, 6), checkpoint=5)
    send_all(run_dir, ["wandb"])
    assert len(Stub.received) == 5 and read_json(state_file(run_dir, "wandb"))["ended"]


def test_results_that_were_not_sent_to_the_end_are_sent_again(run_dir):
    append_rows(run_dir, range(1, 4), checkpoint=3)
    write_json(run_dir / "metrics.json", {})
    (run_dir / "model").mkdir()
    write_json(run_dir / "status.json", {"state": "finished"})
    Stub.fails = "close"
    assert send_all(run_dir, ["wandb"])[1]
    assert not read_json(state_file(run_dir, "wandb")).get("ended")
    Stub.fails, Stub.files = None, []
    assert not send_all(run_dir, ["wandb"])[1]
    assert Stub.files and read_json(state_file(run_dir, "wandb"))["ended"]
    assert problems(run_dir, ["wandb"]) == []


def test_a_file_system_without_locks_is_no_obstacle(run_dir, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(sender.fcntl, "flock", no_locks)
    append_rows(run_dir, range(1, 4), checkpoint=3)
    assert not send_all(run_dir, ["wandb"])[1] and len(Stub.received) == 3


def test_two_senders_do_not_send_at_the_same_time(run_dir, monkeypatch):
    monkeypatch.setattr(sender, "SECONDS_TO_END", 0.3)
    monkeypatch.setattr(sender, "POLL", 0.1)
    started = time.monotonic()
    with (
        Sender(run_dir, "wandb"),
        pytest.raises(Exception, match="another process is sending"),
        Sender(run_dir, "wandb"),
    ):
        pass
    assert time.monotonic() - started < 10


def test_a_library_that_is_missing_is_named_before_training(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="run.trackers names mlflow, which is not installed: pip install mlflow"):
        check_trackers(["mlflow"])
    with pytest.raises(UsageError, match="give tensorboard, wandb, mlflow, trackio"):
        check_trackers(["neptune"])
