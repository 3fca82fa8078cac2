"""launch/cloud: the files mean what they say to the shells that read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from machines import ROOT

CLOUD = ROOT / "launch/cloud"


def first_boot() -> dict[str, str]:
    """path -> content of the files that cloud-init writes."""
    return {
        file["path"]: file["content"] for file in yaml.safe_load((CLOUD / "cloud-init.yaml").read_text())["write_files"]
    }


def test_a_shell_reads_what_is_trained(tmp_path):
    """systemd takes TRAIN without quotes; a shell would run the second word."""
    (tmp_path / "distcls.env").write_text(first_boot()["/etc/distcls.env"])
    script = 'set -eu; . ./distcls.env; printf "%s\\n" "$TRAIN" "$IMAGE" "$BASE"'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["-c /opt/distcls/configs/digits.yaml", "distcls"]


def command(folder: Path, name: str, script: str) -> None:
    """A program of this name, first on PATH."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_machine_that_is_taken_while_it_builds_goes_on_at_its_next_boot(tmp_path, monkeypatch):
    """The script of each boot, with its paths in a folder; the first time, building is cut short."""
    files, opt, bin_folder = first_boot(), tmp_path / "opt", tmp_path / "bin"
    for folder in (opt, bin_folder, tmp_path / "etc/systemd/system"):
        folder.mkdir(parents=True)
    (tmp_path / "etc/distcls.env").write_text(files["/etc/distcls.env"])
    script = files["/var/lib/cloud/scripts/per-boot/distcls.sh"]
    for path in ("/opt/", "/etc/"):
        script = script.replace(f" {path}", f" {tmp_path}{path}")
    (tmp_path / "boot").write_text(script)
    note = f'echo "{{}} $*" >> {tmp_path}/done'
    command(
        bin_folder, "git", f'{note.format("git")}; mkdir -p "$5/launch/cloud"; touch "$5/launch/cloud/distcls.service"'
    )
    command(bin_folder, "sysctl", "true")
    command(bin_folder, "systemctl", note.format("systemctl"))
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")

    command(bin_folder, "docker", "exit 1")
    assert subprocess.run(["sh", "boot"], cwd=tmp_path).returncode == 1
    assert "systemctl" not in (tmp_path / "done").read_text()
    built = f'[ "$1" != build ] || touch {tmp_path}/built; [ -e {tmp_path}/built ]'
    command(bin_folder, "docker", f"{note.format('docker')}; {built}")
    for _ in range(2):
        assert subprocess.run(["sh", "boot"], cwd=tmp_path).returncode == 0
    done = [line.split()[:2] for line in (tmp_path / "done").read_text().splitlines()]
    assert done.count(["git", "clone"]) == 1 and done.count(["docker", "build"]) == 1
    assert done.count(["systemctl", "start"]) == 2


@pytest.mark.parametrize(("rank", "waits"), [(0, False), (1, True)])
def test_skypilot_uploads_the_run_and_hears_the_exit_code(tmp_path, monkeypatch, rank, waits):
    """SkyPilot's upload is more lines of the same script, whose first one is this assignment."""
    (tmp_path / "launch/cloud").mkdir(parents=True)
    command(tmp_path / "launch/cloud", "spot_watch.py", 'echo "watch $*"; exit 75')
    command(tmp_path, "sleep", 'echo "sleep $*"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SKYPILOT_NUM_NODES", "2")
    monkeypatch.setenv("SKYPILOT_NODE_RANK", str(rank))
    monkeypatch.setenv("SKYPILOT_NODE_IPS", "10.0.0.1\n10.0.0.2")
    monkeypatch.setenv("NAME", "digits")
    monkeypatch.setenv("TRAIN", "-c x.yaml a=b")
    script = yaml.safe_load((CLOUD / "skypilot.yaml").read_text())["run"] + '\ncode=$?; echo "upload after $code"'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    watch, *rest = done.stdout.splitlines()
    assert watch.endswith(
        f"-- launch/node.sh --nodes 2 --rank {rank} --head 10.0.0.1 run.dir=/runs/digits -c x.yaml a=b"
    )
    assert rest == ["sleep 120"] * waits + ["upload after 75"]
