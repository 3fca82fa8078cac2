"""launch/cloud/spot_watch.py: from each cloud's notice to a saved checkpoint, and the command's own exit codes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from fake_metadata import ADDRESSES
from machines import ROOT, Machine, ip
from ranks import await_step, read_json

WATCH = [sys.executable, str(ROOT / "launch/cloud/spot_watch.py")]
TRAIN = [
    *[sys.executable, "-m", "distcls", "train", "model.name=ledger:make", "train.global_batch_size=16"],
    *["train.num_epochs=1000", "train.num_threads=1", "train.eval_every=900 epochs", "run.trackers=[]"],
    "train.checkpoint_every=900 epochs",
]


@pytest.fixture
def clouds(tmp_path) -> Iterator[dict[str, Machine]]:
    """A machine of each cloud, where the metadata service has its usual address."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("machines of a cloud cannot be made: that takes root and iproute2's `ip netns`")
    found = {
        cloud: Machine(f"distcls-{os.getpid()}-{cloud}", address, tmp_path) for cloud, address in ADDRESSES.items()
    }
    try:
        for cloud, machine in found.items():
            ip("netns", "add", machine.name)
            ip("-n", machine.name, "link", "set", "lo", "up")
            ip("-n", machine.name, "address", "add", f"{machine.address}/32", "dev", "lo")
            machine.start(sys.executable, str(ROOT / "tests/fake_metadata.py"), cloud, f"{cloud}.preempted")
        wait_for(lambda: all("listening" in machine.output() for machine in found.values()))
        yield found
    finally:
        for machine in found.values():
            machine.kill()
            subprocess.run(["ip", "netns", "delete", machine.name], check=False)


def test_every_clouds_notice_ends_in_a_saved_checkpoint(clouds, tmp_path):
    watching = {}
    for cloud, machine in clouds.items():
        options = ["--cloud", cloud, "--every", "0.2", "--notice", f"{cloud}.json", "--"]
        watching[cloud] = machine.start(*WATCH, *options, *TRAIN, "--name", cloud)
    for cloud, process in watching.items():
        await_step(tmp_path / "runs" / cloud, 5)
        assert process.poll() is None and not (tmp_path / f"{cloud}.json").exists()
        (tmp_path / f"{cloud}.preempted").touch()
    for cloud, process in watching.items():
        assert process.wait(30) == 75, clouds[cloud].output()
        assert "asking again" not in clouds[cloud].output()
        status = read_json(tmp_path / "runs" / cloud / "status.json")
        assert (status["state"], status["reason"]) == ("preempted", "SIGTERM")
        assert (tmp_path / "runs" / cloud / "checkpoints" / f"step-{status['step']:08d}" / "model.safetensors").exists()
        notice = read_json(tmp_path / f"{cloud}.json")
        assert notice["cloud"] == cloud and notice["time"] < time.time()
    assert read_json(tmp_path / "aws.json")["notice"]["action"] == "terminate"
    assert read_json(tmp_path / "azure.json")["notice"]["Resources"] == ["trainer_7"]


STUBBORN = """
import signal, time
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
print("ready", flush=True)
while not heard:
    time.sleep(0.01)
time.sleep(0.5)
raise SystemExit(70 + len(heard))
"""


def test_a_command_hears_of_it_once_and_keeps_its_exit_code(clouds, tmp_path):
    """systemd sends SIGTERM as well when the machine goes down; a second one would end training unsaved."""
    machine = clouds["aws"]
    options = ["--cloud", "aws", "--every", "0.1", "--notice", "folder/notice.json", "--"]
    process = machine.start(*WATCH, *options, sys.executable, "-c", STUBBORN)
    wait_for(lambda: "ready" in machine.output())
    (tmp_path / "aws.preempted").touch()
    wait_for((tmp_path / "folder/notice.json").exists)
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.1)
    assert process.wait(10) == 71


def test_without_a_metadata_service_it_trains_and_says_so_once(tmp_path):
    """As on a machine that is not of this cloud; nobody listens on this address in a namespace of its own."""
    command = ["unshare", "--net", *WATCH, "--cloud", "gcp", "--every", "0.1", "--notice", str(tmp_path / "n"), "--"]
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace cannot be made")
    done = subprocess.run([*command, "sh", "-c", "sleep 0.5; exit 7"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 7 and not (tmp_path / "n").exists()
    assert done.stderr.count("does not answer") == 1


def test_a_machine_that_is_of_no_cloud_is_told_to_name_one(tmp_path):
    """A firmware of this machine's own is mounted over that of the real one."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace cannot be made")
    (tmp_path / "sys_vendor").write_text("QEMU\n")
    script = f'mkdir -p {tmp_path}/dmi && mount --bind {tmp_path} /sys/class/dmi/id 2>/dev/null; exec "$@"'
    command = ["unshare", "--mount", "bash", "-c", script, "-", *WATCH, "--notice", "n", "--", "false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "give --cloud aws or gcp or azure or alibaba" in done.stderr


def wait_for(condition, limit: float = 20) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)
