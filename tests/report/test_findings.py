"""`distcls doctor` finds what is wrong with a machine, says how to mend it, and never hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from distcls.cluster.machine import Finding
from distcls.report.findings import print_findings

DOCTOR = [sys.executable, "-m", "distcls", "doctor"]


def test_a_sick_machine_is_told_what_to_do(tmp_path):
    """A container with Docker's default /dev/shm, and a variable that names an interface of another machine."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a small /dev/shm cannot be mounted here: that takes root and `unshare`")
    script = f"mount -t tmpfs -o size=64m none /dev/shm && exec {' '.join(DOCTOR)} --json --folder {tmp_path}"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "ib7"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    broken = {one["name"]: one for one in json.loads(done.stdout) if one["status"] == "broken"}
    assert set(broken) == {"/dev/shm", "gloo self-test"}
    assert "docker run --ipc=host" in broken["/dev/shm"]["advice"]
    assert "ib7" in broken["gloo self-test"]["found"]
    assert "GLOO_SOCKET_IFNAME" in broken["gloo self-test"]["advice"]


def test_people_get_a_table(capsys):
    print_findings([Finding("cores", "2"), Finding("disk", "full", "broken", "Delete something.")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["ok", "cores", "2"],
        ["✗", "disk", "full"],
        ["Delete", "something."],
        [],
        ["1", "broken"],
    ]


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        (["ok"], "No problems found."),
        (["warning"], "1 warning"),
        (["warning", "broken", "warning"], "1 broken, 2 warnings"),
    ],
)
def test_the_last_line_counts_problems(capsys, statuses, told):
    print_findings([Finding("disk", "full", status) for status in statuses])
    assert capsys.readouterr().out.splitlines()[-1] == told
