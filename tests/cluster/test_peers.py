"""What processes tell each other over a real store: who lives, who left and why, who hangs and where."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch.distributed as dist

from distcls.cluster import peers
from distcls.cluster.peers import Departure, Peers, place_in
from distcls.errors import PeerFailed, Preempted


class Ended(BaseException):
    """In place of the end of the process."""


class Group:
    """Some processes' peers, in one process, with a store that can go as process 0 does."""

    def __init__(self, world_size: int) -> None:
        self.server = dist.TCPStore("127.0.0.1", 0, None, True, timeout=timedelta(seconds=10), wait_for_workers=False)
        self.peers: list[Peers] = []
        self.ends: dict[int, Departure] = {}
        for rank in range(world_size):
            connection = dist.TCPStore("127.0.0.1", self.server.port, None, False, timeout=timedelta(seconds=10))
            self.peers.append(Peers(connection, rank, world_size))
            self.peers[rank].on_end = lambda departure, rank=rank: self._note(rank, departure)

    def _note(self, rank: int, departure: Departure) -> int:
        self.ends[rank] = departure
        return departure.exit_code

    def falls_silent(self, rank: int) -> None:
        """It gives no more signs, as one that was killed."""
        self.peers[rank].stop()

    def wait(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not is_so():
            assert time.monotonic() < end, self.ends
            time.sleep(0.01)


@pytest.fixture
def group(monkeypatch):
    """Makes a group of a size, whose times are short."""
    made: list[Group] = []

    def leave(code: int) -> None:
        raise Ended(code)

    for name, seconds in {"INTERVAL": 0.02, "SILENCE": 1.0, "GRACE": 0.4, "DIAGNOSIS": 1.0}.items():
        monkeypatch.setattr(peers, name, seconds)
    monkeypatch.setattr(peers.os, "_exit", leave)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)

    def make(world_size: int) -> Group:
        made.append(Group(world_size))
        return made[-1]

    yield make
    for one in made:
        for peer in one.peers:
            peer.stop()


def test_nobody_ends_while_all_give_signs(group):
    three = group(3)
    time.sleep(2)
    assert three.ends == {}


@pytest.mark.parametrize("silent", [[2], [1, 2]])
def test_one_that_gives_no_sign_of_life_ends_all(group, silent):
    three = group(3)
    for rank in silent:
        three.falls_silent(rank)
    others = set(range(3)) - set(silent)
    three.wait(lambda: set(three.ends) == others)
    departure = three.ends[0]
    named = "processes 1, 2 are" if len(silent) > 1 else "process 2 is"
    assert str(departure).startswith(f"{named} gone without an error: killed")
    assert not departure.main_is_gone and departure.exit_code == 1


def test_whoever_leaves_first_says_why_for_all(group):
    three = group(3)
    first = three.peers[1].leave(70, "the loss is nan")
    assert first == Departure(1, 70, "the loss is nan")
    assert three.peers[2].leave(1, "a sum failed") == first
    three.peers[1].stop()
    three.wait(lambda: set(three.ends) == {0, 2})
    assert set(three.ends.values()) == {first}
    error = first.as_error()
    assert isinstance(error, PeerFailed)
    for one in (error, pickle.loads(pickle.dumps(error))):  # as a pool hands it to its caller
        assert (str(one), one.exit_code, one.on_all_ranks) == ("process 1 ended: the loss is nan", 70, True)


def test_who_ends_by_itself_in_time_is_not_ended(group):
    two = group(2)
    two.peers[1].leave(1, "a bug")
    two.peers[1].stop()
    assert two.peers[0].who_left("Connection closed") == Departure(1, 1, "a bug")
    two.peers[0].stop()
    time.sleep(0.6)
    assert two.ends == {}


def test_a_preemption_before_training_ends_all_at_once(group, monkeypatch):
    monkeypatch.setattr(peers, "GRACE", 60.0)
    two = group(2)
    two.peers[1].leave(Preempted.exit_code, "SIGUSR1 before training began")
    two.wait(lambda: 0 in two.ends)


def test_process_0_keeps_the_store_until_all_who_live_know(group, monkeypatch):
    monkeypatch.setattr(peers, "DIAGNOSIS", 10.0)
    three = group(3)
    three.peers[0].leave(1, "a bug")
    three.peers[0].stop()
    assert three.peers[0].store.check([f"knows{rank}" for rank in range(3)])
    three.wait(lambda: all(peer._first is not None for peer in three.peers))
    assert three.peers[2].who_left("Connection closed").reason == "a bug"


def test_process_0_does_not_end_itself_before_the_others_know(group, monkeypatch):
    """Its thread knows at once that it leaves; the store would go with it."""
    monkeypatch.setattr(peers, "DIAGNOSIS", 1.5)
    two = group(2)
    two.falls_silent(1)
    leaving = threading.Thread(target=two.peers[0].leave, args=(Preempted.exit_code, "SIGUSR1"))
    start = time.monotonic()
    leaving.start()
    two.wait(lambda: 0 in two.ends)
    assert time.monotonic() - start > 1
    leaving.join()


def test_process_0_does_not_wait_for_ever_for_one_that_cannot_know(group):
    two = group(2)
    two.falls_silent(1)
    start = time.monotonic()
    two.peers[0].leave(1, "a bug")
    assert 0.9 < time.monotonic() - start < 5


def test_a_failed_sum_is_blamed_on_the_one_that_fell_silent(group, monkeypatch):
    monkeypatch.setattr(peers, "SILENCE", 60.0)
    three = group(3)
    three.falls_silent(2)
    assert "process 2 is gone without an error" in three.peers[1].who_left("Connection closed").reason


def test_a_failed_sum_where_all_live_is_nobodys(group):
    two = group(2)
    assert (
        "although all of them are alive. It said: Connection closed"
        in two.peers[0].who_left("Connection closed").reason
    )


def test_without_the_store_process_0_is_gone(group):
    two = group(2)

    class Gone:
        def check(self, *arguments: object) -> bool:
            raise RuntimeError("Connection reset by peer")

        set = multi_get = compare_set = check

    two.peers[1].store = Gone()  # type: ignore[assignment]
    assert two.peers[1].who_left("Connection closed").main_is_gone
    two.wait(lambda: 1 in two.ends)
    assert "process 0 is gone without an error" in str(two.ends[1])


def test_nobody_getting_on_ends_all_and_says_where_each_stands(group):
    three = group(3)
    for peer in three.peers:
        peer.expect_progress(0.5)
    three.falls_silent(2)  # and cannot say where it stands
    three.wait(lambda: set(three.ends) == {0, 1})
    lines = str(three.ends[1]).splitlines()
    assert lines[0].startswith("no process has made progress for 0.5 s (run.hang_timeout)")
    assert [line.strip().split(": ")[0] for line in lines[1:4]] == ["process 0", "process 1", "process 2"]
    assert "test_peers.py:" in lines[1] and "test_peers.py:" in lines[2] and "does not answer" in lines[3]


@pytest.mark.parametrize("moving", [0, 2])
def test_it_is_enough_that_one_process_gets_on(group, moving):
    three = group(3)
    for peer in three.peers:
        peer.expect_progress(0.6)
    for _ in range(20):
        time.sleep(0.1)
        three.peers[moving].moved()
    assert three.ends == {}
    three.wait(lambda: 0 in three.ends)


def test_one_process_that_expects_progress_is_enough_and_it_may_stop_to(group):
    three = group(3)
    time.sleep(1)  # nothing was expected meanwhile
    three.peers[2].expect_progress(0.8)
    time.sleep(0.4)
    assert three.ends == {}
    three.peers[2].expect_progress(None)
    time.sleep(1)
    assert three.ends == {}


def test_the_place_is_the_innermost_of_the_package_and_of_all():
    text = (
        f'Thread 0x00007f0000000001 (most recent call first):\n  File "/x/torch/nn/linear.py", line 7 in forward\n'
        f'  File "{peers.PACKAGE}/training/step.py", line 88 in _forward\n  File "/x/main.py", line 1 in <module>\n\n'
        f'Current thread 0x00007f0000000002 (most recent call first):\n  File "/x/a.py", line 2 in b\n'
    )
    assert place_in(text, 0x7F0000000001) == "training/step.py:88 _forward → nn/linear.py:7 forward"
    assert place_in(text, 0x7F0000000002) == "x/a.py:2 b"
    assert place_in(text, 3) == "unknown"
    assert peers.PACKAGE.name == "distcls"


def test_where_a_thread_stands_is_found_while_its_calls_come_and_go():
    stop = threading.Event()

    def nested(depth: int) -> int:
        return depth and nested(depth - 1)

    def busy() -> None:
        while not stop.is_set():
            nested(50)

    thread = threading.Thread(target=busy)
    thread.start()
    assert thread.ident is not None
    try:
        found = {peers._where(thread.ident).split(" ")[-1] for _ in range(300)}
    finally:
        stop.set()
        thread.join()
    assert "nested" in found and "unknown" not in found
