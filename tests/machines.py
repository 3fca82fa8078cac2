"""Two "machines" for the launchers: network namespaces joined by a pair of virtual cables."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "PYTHON": sys.executable,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "PYTHONUNBUFFERED": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


class Machine:
    """A network namespace with an address of its own, and what was started there."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.started: list[subprocess.Popen] = []

    def start(self, *words: str) -> subprocess.Popen:
        """Start a command. Its output goes to a file, `output` reads it."""
        log = (self.folder / f"{self.name}-{len(self.started)}.log").open("w")
        command = ["ip", "netns", "exec", self.name, *words]
        self.started.append(
            subprocess.Popen(command, cwd=self.folder, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
        )
        return self.started[-1]

    def output(self) -> str:
        """What the newest command printed."""
        return (self.folder / f"{self.name}-{len(self.started) - 1}.log").read_text()

    def kill(self) -> None:
        """Pull the plug: every process of the machine is gone at once."""
        pids = ip("netns", "pids", self.name).split()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        for process in self.started:
            process.wait()


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
