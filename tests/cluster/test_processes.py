"""Processes come together and part in order: who is missing is named, and whoever is refused ends with its own code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from ranks import free_port, rank_environment

REPOSITORY = Path(__file__).parents[2]

ENDS = {
    "one refused": "if rank == REFUSED: raise BadDataError('no')\n    processes.wait_for_everyone()",
    "nobody": "processes.from_all(rank)",
    "all refused with a vote under way": "processes.asked_to_stop()\n    raise UsageError('no')",
    "a bug with a vote under way": "processes.asked_to_stop()\n    raise ValueError('a bug')",
}
"""What a block does that has all processes."""

PROGRAM = """
import os, sys, time
sys.path.insert(0, {repository!r})
from distcls.commands.exit_codes import run_command
from distcls.errors import BadDataError, UsageError
from distcls.cluster import joining, processes as module
from datetime import timedelta
rank, REFUSED = int(os.environ["RANK"]), {refused}
joining.NOTICE, module.TIMEOUT = 1.0, timedelta(seconds={limit})

def work(words):
    with module.Processes("cpu") as processes:
        return block(processes)

def block(processes):
    {block}

def main(words):
    for _ in range({times}):
        work(words)

sys.exit(run_command(main, []))
"""


def start(block: str, ranks: Sequence[int] = (0, 1), refused: int = 1, limit: float = 60, times: int = 1) -> list:
    """Real interpreters, which end as Python does: threads, destructors and all."""
    port = free_port()
    code = PROGRAM.format(repository=str(REPOSITORY), block=block, refused=refused, limit=limit, times=times)
    shared = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **shared, **rank_environment(rank, 2, port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]


def finish(started: Sequence[subprocess.Popen], seconds: float = 100) -> tuple[list[int], list[str]]:
    end = time.monotonic() + seconds
    try:
        errors = [process.communicate(timeout=max(end - time.monotonic(), 1))[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], errors


@pytest.mark.parametrize(
    ("end", "refused", "codes"),
    [
        ("nobody", 1, [0, 0]),
        *[("all refused with a vote under way", 1, [2, 2])] * 2,  # which aborted one time in two
        ("a bug with a vote under way", 1, [1, 1]),
        ("one refused", 0, [65, 65]),
        ("one refused", 1, [65, 65]),
    ],
)
def test_whoever_fails_all_end_in_order_and_with_its_exit_code(end, refused, codes):
    found, errors = finish(start(ENDS[end], refused=refused))
    assert found == codes, errors
    assert "terminate called" not in "".join(errors)
    assert sum("Traceback" in error for error in errors) <= 2 * end.startswith("a bug"), errors


def test_processes_may_come_together_again_and_again():
    block = "assert processes.from_all(rank) == [0, 1]\n    processes.asked_to_stop()"
    assert finish(start(block, times=4)) == ([0, 0], ["", ""])


@pytest.mark.parametrize("missing", [0, 1])
def test_a_process_that_does_not_come_is_named_soon_and_its_absence_ends_the_others(missing):
    there = 1 - missing
    codes, (told,) = finish(start(ENDS["nobody"], ranks=[there], limit=4))
    lines = told.splitlines()
    assert lines[0] == f"distcls: process {there} is waiting for process {missing} of 2 to start"
    assert codes == [1]
    assert lines[1].startswith(f"distcls: error: process {missing} of 2 did not start within 4 s")
    assert len(lines) == 2
