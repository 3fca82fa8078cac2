"""Starts real processes of distcls quickly: forked from a server that has done the imports, one per rank.

Importing torch takes seconds, and the tests kill and restart runs a hundred times. A fork server that has
imported it, but computed nothing, gives processes that are in every other way like those of torchrun.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

LIMIT = 90
"""Seconds that any run in a test may take."""

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "distcls.training.loop",
        "distcls.training.start.dry_run",
        "distcls.inference.evaluation",
        "distcls.inference.sums",
        "distcls.report.run_report",
        "torchvision.transforms.v2",
        "sklearn.datasets",
        "timm",
        "torch._dynamo",
        "ledger",
    ]
)


def warm_up() -> None:
    """Wait until the server has done its imports."""
    process = SERVER.Process(target=int)
    process.start()
    process.join(150)
    assert process.exitcode == 0, "the fork server did not start"


def rank_main(argv: list[str], environment: dict[str, str], folder: str, log: str, setup: Callable | None) -> None:
    """What a rank does: as `python -m distcls.train` would, with its output in a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # the default, where this process were not a test's
    os.chdir(folder)
    sys.path.insert(0, str(Path(__file__).parent))
    if setup is not None:
        setup()
    from distcls.cli import main

    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Group:
    """The processes of one start of a run."""

    def __init__(self, processes: Sequence[BaseProcess], logs: Sequence[Path]) -> None:
        self.processes, self.logs = processes, logs

    def wait(self, limit: float = LIMIT) -> list[int]:
        """Exit codes. Fails where a process does not end in time."""
        end = time.monotonic() + limit
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0.01))
        codes = [process.exitcode for process in self.processes]
        if None in codes:
            self.kill()
            raise AssertionError(f"still running after {limit} s: {codes}\n{self.output()}")
        return [code for code in codes if code is not None]

    def finish(self, expect: int = 0) -> str:
        """Wait, and check the exit codes; the output."""
        codes = self.wait()
        assert codes == [expect] * len(codes), f"exit codes {codes}\n{self.output()}"
        return self.output()

    def kill(self) -> None:
        """SIGKILL to all of them."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def output(self) -> str:
        """What they printed, rank by rank."""
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in self.logs if log.exists())

    def alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)


class Ranks:
    """Starts groups of processes, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: list[Group] = []

    def start(self, *argv: str, world_size: int = 1, setup: Callable | None = None, gpus: str = "") -> Group:
        """`distcls ARGV` on each of `world_size` processes."""
        port = free_port()
        processes, logs = [], []
        for rank in range(world_size):
            environment = {
                "PYTHONUNBUFFERED": "1",
                "CUDA_VISIBLE_DEVICES": gpus,
                "XDG_CACHE_HOME": str(self.folder / "cache"),
                "XDG_CONFIG_HOME": str(self.folder / "config"),
            }
            if world_size > 1:
                environment |= rank_environment(rank, world_size, port)
            log = self.folder / f"start{len(self.groups)}-rank{rank}.log"
            process = SERVER.Process(
                target=rank_main, args=(list(argv), environment, str(self.folder), str(log), setup)
            )
            process.start()
            processes.append(process)
            logs.append(log)
        self.groups.append(Group(processes, logs))
        return self.groups[-1]

    def run(
        self, *argv: str, world_size: int = 1, expect: int = 0, setup: Callable | None = None, gpus: str = ""
    ) -> str:
        """Start, wait, check the exit codes; the output."""
        return self.start(*argv, world_size=world_size, setup=setup, gpus=gpus).finish(expect)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self.groups:
            group.kill()


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def await_step(run_dir: Path, step: int, limit: float = 60) -> None:
    """Wait until status.json shows a run at work that has come to this step."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if (run_dir / "status.json").exists():
            status = read_json(run_dir / "status.json")
            if status["state"] == "running" and status["step"] >= step:
                return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not reached")


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun sets for a process on one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    numbers["MASTER_PORT"] = port
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}}


def free_port() -> int:
    """One that was not given out before: groups that start together have not opened theirs yet."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if port not in _given_out:
            _given_out.add(port)
            return port


_given_out: set[int] = set()
