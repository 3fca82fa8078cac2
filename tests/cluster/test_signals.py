"""The first stop signal is only noted, the second ends a process wherever it hangs, and its workers hear of none."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

NAMES = ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"]

NOTES = """
import time
from distcls.cluster import signals
signals.install()
signals.install()
print("ready", signals.received(), flush=True)
end = time.monotonic() + 20
while signals.received() is None and time.monotonic() < end:
    time.sleep(0.01)
print(signals.received(), flush=True)
"""

HANGS_IN = {
    "sleep": "time.sleep(60)",
    # One call of C++ that gives back neither to Python nor to the kernel, as a collective whose peer is gone.
    "C": "hashlib.pbkdf2_hmac('sha256', b'x' * 8, b'y' * 8, 100_000_000)",
}

HANGS = """
import hashlib, os, time
from distcls.cluster import signals
signals.install()
print("ready", flush=True)
{call}
"""

FORKS = """
import os, signal, sys, time
from distcls.cluster import signals
signals.install()
child = os.fork()
if child == 0:
    for number in signals.STOP_SIGNALS:
        os.kill(os.getpid(), number)
    time.sleep(0.2)
    os._exit(7 if signals.received() is None else 8)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), signals.received(), flush=True)
"""

WORKERS = """
import multiprocessing, os, signal, sys, time
from distcls.cluster import signals
signals.SECONDS_BETWEEN_LOOKS = 0.2

def work(seconds):
    time.sleep(seconds)  # it still starts
    signals.obey_parent_only()
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    signals.install()
    worker = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(float(sys.argv[2]),), daemon=True)
    worker.start()
    time.sleep(0.5)
    {end}
"""

POOLS = """
import multiprocessing, time
from distcls.cluster import signals

def pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.apply_async(time.sleep, [600])
        print(pool.apply(abs, [-1]), flush=True)

{call}
"""

IMPORTS = """
import sys
from distcls.cluster import signals
print(sorted({"torch", "numpy", "yaml", "rich"} & set(sys.modules)))
"""


@pytest.fixture
def start():
    started = []

    def run(code: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_signal_sets_a_flag_and_nothing_more(start, name):
    process = start(NOTES)
    assert line(process) == "ready None"
    process.send_signal(getattr(signal, name))
    assert line(process) == name
    assert process.wait(10) == 0


@pytest.mark.parametrize("place", list(HANGS_IN))
def test_the_second_signal_ends_a_process_that_hangs(start, place):
    process = start(HANGS.format(call=HANGS_IN[place]))
    assert line(process) == "ready"
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 128 + signal.SIGTERM


def test_the_same_signal_passed_on_by_a_launcher_is_no_second_one(start):
    process = start(HANGS.format(call=HANGS_IN["sleep"]))
    assert line(process) == "ready"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert process.poll() is None
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 128 + signal.SIGINT


@pytest.mark.parametrize("names", [("SIGTERM", "SIGHUP"), ("SIGHUP", "SIGTERM"), ("SIGHUP", "SIGHUP")])
def test_a_session_that_ends_sends_two_signals_that_count_as_one(start, names):
    process = start(HANGS.format(call=HANGS_IN["sleep"]))
    assert line(process) == "ready"
    for name in names:
        process.send_signal(getattr(signal, name))
        time.sleep(0.1)
    assert process.poll() is None


def test_nohup_keeps_a_lost_connection_from_stopping_it(start):
    ignoring = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = start(f"{ignoring}; os.execv(sys.executable, {[sys.executable, '-c', NOTES]})")
    assert line(process) == "ready None"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert line(process) == "SIGTERM"


def test_what_the_first_signal_does_beside_being_noted(start):
    process = start(HANGS.format(call="signals.first_does(lambda name: os._exit(len(name))); time.sleep(60)"))
    assert line(process) == "ready"
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(5) == 7


def test_the_code_tells_the_second_signal(start):
    process = start(HANGS.format(call=HANGS_IN["sleep"]))
    assert line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 128 + signal.SIGINT


def test_forked_children_ignore_the_signals_and_tell_nobody(start):
    assert line(start(FORKS)) == "7 None"


@pytest.mark.parametrize("call", ["signals.install()\npool()", "with signals.borrowed():\n    pool()"])
def test_a_pool_of_somebody_else_ends(start, call):
    """It ends its processes with SIGTERM and waits for them without a limit."""
    process = start(POOLS.format(call=call))
    assert line(process) == "1"
    assert process.wait(20) == 0


@pytest.mark.parametrize("seconds", [0, 1])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("end", ["os._exit(3)", "worker.terminate(); worker.join(); os._exit(3)"])
def test_a_worker_ends_with_its_rank_even_while_it_still_starts(tmp_path, method, seconds, end):
    """Its output is a pipe that nobody else holds: it closes when the worker is gone."""
    (tmp_path / "rank.py").write_text(WORKERS.format(end=end))
    command = [sys.executable, str(tmp_path / "rank.py"), method, str(seconds)]
    rank = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        rank.communicate(timeout=30)
    finally:
        rank.kill()
    assert rank.returncode == 3


def test_a_signal_that_is_not_for_stopping_is_left_alone():
    from distcls.cluster import signals

    assert signal.SIGWINCH not in signals.STOP_SIGNALS and signal.SIGCHLD not in signals.STOP_SIGNALS


def test_nothing_slow_is_imported_before_signals_are_noted(start):
    assert line(start(IMPORTS)) == "[]"


def test_importing_installs_nothing(start):
    """Only entry points do: a notebook that imports distcls keeps its Ctrl-C."""
    code = "import signal, distcls.api; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)"
    assert line(start(code)) == "True"
