"""Each row reaches a service once, however often the service, the sender or the run stops."""

from __future__ import annotations

import errno
import io
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from runs_to_send import append_rows, draw, finish, make_run

from distcls.errors import UsageError
from distcls.files.atomic import read_json
from distcls.runs.tracking import sender
from distcls.runs.tracking.rows import covered_rows
from distcls.runs.tracking.sender import Sender, follow, problems, send_all, state_file
from distcls.runs.tracking.trackers import check_trackers


class Stub:
    """A service that keeps what it is sent, and fails when it is told to."""

    received: ClassVar[list[tuple[int, int]]] = []
    files: ClassVar[list[str]] = []
    tokens: ClassVar[list[str]] = []
    tested: Any = None
    rows_at_end: int | None = None
    connections = 0
    fails: str | None = None
    tells = False
    id = "abc"
    gives_up = threading.Event()

    def __init__(self, about: Any) -> None:
        Stub.tokens.append(about.token)
        assert read_json(state_file(about.dir, "wandb"))["token"] == about.token, "it is kept before the connection"
        if Stub.fails == "connect":
            raise ConnectionError("no route to host")
        Stub.connections += 1
        about.state["id"] = Stub.id
        assert about.settings["train.seed"] == 0

    def sent(self) -> int | None:
        return len(Stub.received) if Stub.tells else None

    def send(self, rows: Any, first: int) -> None:
        for place, row in enumerate(rows, start=first):
            if Stub.fails == "send" and place >= 3:
                raise TimeoutError("it took too long")
            Stub.received.append((place, row["step"]))

    def end(self, tested: Any, files: Any) -> None:
        Stub.files, Stub.tested, Stub.rows_at_end = [path.name for path in files], tested, len(Stub.received)

    def close(self) -> None:
        if Stub.fails == "close":
            raise TimeoutError("still sending")
        if Stub.fails == "hangs":
            Stub.gives_up.wait(10)
            raise SystemExit(75)


@pytest.fixture
def run_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(sender.SERVICES, "wandb", Stub)
    monkeypatch.setattr(sender, "RETRY", 0.0)
    monkeypatch.setattr(sender, "SECONDS_FOR_REPORT", 0.0)
    Stub.received, Stub.files, Stub.connections, Stub.fails, Stub.tells = [], [], 0, None, False
    Stub.tokens, Stub.tested, Stub.rows_at_end, Stub.id = [], None, None, "abc"
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


def test_the_rows_are_read_only_when_a_checkpoint_covers_more_of_them(run_dir, monkeypatch):
    """The file of a long run takes a second to read, and the sender looks at the folder every two seconds."""
    reads = []
    monkeypatch.setattr(sender, "covered_rows", lambda run: reads.append(run) or covered_rows(run))
    append_rows(run_dir, range(1, 5), checkpoint=3)
    Stub.fails = "connect"
    with Sender(run_dir, "wandb") as sending:
        assert sending.catch_up() == 0 and len(reads) == 1
        Stub.fails = None
        assert [sending.catch_up() for _ in range(3)] == [3, 0, 0], "after a failure it is read again"
        assert len(reads) == 2
        append_rows(run_dir, range(5, 8), checkpoint=7)
        assert [sending.catch_up() for _ in range(3)] == [4, 0, 0] and len(reads) == 3


def test_a_service_that_cannot_be_reached_gets_all_of_it_later(run_dir):
    append_rows(run_dir, range(1, 6), checkpoint=5)
    Stub.fails = "connect"
    (line,), failed = send_all(run_dir, ["wandb"])
    assert failed and line == "wandb: ConnectionError: no route to host"
    assert problems(run_dir, ["wandb"]) == ["wandb does not have all of this run (ConnectionError: no route to host)"]
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


def test_rows_that_the_library_lost_are_sent_before_the_run_is_closed(run_dir):
    """It only queues them, and the network, or a kill, may end it before they arrive."""
    append_rows(run_dir, range(1, 6), checkpoint=5)
    with Sender(run_dir, "wandb") as sending:
        assert sending.catch_up() == 5
    Stub.tells = True
    del Stub.received[3:]
    (line,), _ = send_all(run_dir, ["wandb"])
    assert line.startswith("wandb: 5 rows, 2 of them new") and len(Stub.received) == 5, "of an unfinished run"
    finish(run_dir)
    del Stub.received[1:]
    (line,), _ = send_all(run_dir, ["wandb"])
    assert line.startswith("wandb: 5 rows, 4 of them new") and Stub.rows_at_end == 5
    assert Stub.received == [(step - 1, step) for step in range(1, 6)]
    Stub.files = []
    (line,), _ = send_all(run_dir, ["wandb"])
    assert line.startswith("wandb: 5 rows, 0 of them new") and Stub.files == [], "the results are there"
    del Stub.received[1:]
    send_all(run_dir, ["wandb"])
    assert Stub.rows_at_end == 5 and Stub.files, "with more rows, the results are sent again"


def test_what_could_not_be_sent_in_time_is_told(run_dir, monkeypatch):
    append_rows(run_dir, range(1, 6), checkpoint=5)
    finish(run_dir)
    Stub.fails = "hangs"
    Stub.gives_up.clear()
    codes: list[int] = []
    monkeypatch.setattr(sender.os, "_exit", lambda code: (codes.append(code), Stub.gives_up.set()))
    monkeypatch.setattr(sender, "SECONDS_TO_END", 0.3)
    with pytest.raises(SystemExit):
        follow(run_dir, "wandb", io.BytesIO())
    assert codes == [75]
    (told,) = problems(run_dir, ["wandb"])
    assert told == "wandb does not have all of this run (not everything was sent within 0 s of the end of the run)"


def test_a_run_whose_plots_are_not_there_is_sent_again_with_them(run_dir, capsys):
    append_rows(run_dir, range(1, 4), checkpoint=3)
    finish(run_dir, with_plots=False)
    assert not send_all(run_dir, ["wandb"])[1]
    assert "no plots yet: run distcls report" in capsys.readouterr().err
    assert "model.safetensors" in Stub.files, "what there is goes out at once"
    with Sender(run_dir, "wandb") as sending:
        assert not sending.is_done
    draw(run_dir)
    send_all(run_dir, ["wandb"])
    assert "curves.png" in Stub.files and read_json(state_file(run_dir, "wandb"))["ended"]


def test_a_service_that_begins_anew_gets_all_of_it(run_dir):
    """Such as another server of MLflow, where the run has another id."""
    append_rows(run_dir, range(1, 4), checkpoint=3)
    finish(run_dir)
    send_all(run_dir, ["wandb"])
    Stub.id, Stub.received, Stub.files = "def", [], []
    (line,), _ = send_all(run_dir, ["wandb"])
    assert line.startswith("wandb: 3 rows, 3 of them new") and len(Stub.received) == 3 and Stub.files


def test_a_run_keeps_its_token_from_before_the_first_connection(run_dir):
    """A kill during it, and the next one finds what that one began."""
    append_rows(run_dir, range(1, 4), checkpoint=3)
    Stub.fails = "connect"
    send_all(run_dir, ["wandb"])
    Stub.fails = None
    send_all(run_dir, ["wandb"])
    assert len(Stub.tokens) == 2 and len(set(Stub.tokens)) == 1


def test_a_finished_run_is_sent_with_its_files_and_again_when_it_was_made_longer(run_dir):
    append_rows(run_dir, range(1, 4), checkpoint=3)
    send_all(run_dir, ["wandb"])
    assert Stub.files == [], "it has not finished"
    finish(run_dir)
    send_all(run_dir, ["wandb"])
    assert Stub.files == ["config.yaml", "metrics.json", "metrics.csv", "curves.png", "model.safetensors"]
    assert (Stub.tested["step"], Stub.tested["accuracy"]) == (9, 0.75)
    assert read_json(state_file(run_dir, "wandb"))["ended"]
    append_rows(run_dir, range(4, 6), checkpoint=5)
    send_all(run_dir, ["wandb"])
    assert len(Stub.received) == 5 and read_json(state_file(run_dir, "wandb"))["ended"]


def test_results_that_were_not_sent_to_the_end_are_sent_again(run_dir):
    append_rows(run_dir, range(1, 4), checkpoint=3)
    finish(run_dir)
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
