"""launch/node.sh: one run over two machines ends like one, and mistakes are answered before anything waits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ledger
import pytest
from machines import ENVIRONMENT, ROOT, Machine, ip
from ranks import await_step, read_json

NODE = str(ROOT / "launch/node.sh")
STEPS = 300
SETTINGS = [
    *["--name", "digits", "model.name=ledger:make", f"train.num_steps={STEPS}", "train.global_batch_size=16"],
    *["train.micro_batch_size=4", "train.deterministic=true", "train.checkpoint_every=50 steps", "run.trackers=[]"],
    *["train.eval_every=150 steps", "train.log_every=50 steps"],
]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    """Two of them, that share nothing but a cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two machines cannot be made: that takes root and iproute2's `ip netns`")
    pair = [Machine(f"distcls-{os.getpid()}-{n}", f"10.77.0.{n + 1}", tmp_path / f"disk{n}") for n in (0, 1)]
    for machine in pair:
        machine.folder.mkdir()
    try:
        for machine in pair:
            ip("netns", "add", machine.name)
        ip("-n", pair[0].name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", pair[1].name)
        for machine in pair:
            ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "cable")
            ip("-n", machine.name, "link", "set", "lo", "up")
            ip("-n", machine.name, "link", "set", "cable", "up")
        yield pair
    finally:
        for machine in pair:
            machine.kill()
            subprocess.run(["ip", "netns", "delete", machine.name], check=False)


def start(machines: list[Machine]) -> list[subprocess.Popen]:
    """The same run on both machines; the second one, whose address is the first in order, is not the head."""
    head = machines[1].address
    options = ["--nodes", "2", "--head", head, "--processes", "1", "--stop-timeout", "20"]
    return [
        machine.start(NODE, *options, "--rank", str(rank), *SETTINGS) for rank, machine in enumerate(reversed(machines))
    ]


@pytest.mark.timeout(300)
def test_two_machines_train_stop_and_go_on_as_one(ranks, machines):
    run_dir = machines[1].folder / "runs" / "digits"

    processes = start(machines)
    await_step(run_dir, 20)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in processes] == [75, 75], both_outputs(machines)
    assert read_json(run_dir / "status.json")["state"] == "preempted"
    stopped_at = read_json(run_dir / "status.json")["step"]
    assert (run_dir / "checkpoints" / f"step-{stopped_at:08d}").is_dir()

    processes = start(machines)
    await_step(run_dir, stopped_at + 20)
    machines[1].kill()
    assert processes[1].wait(60) not in (0, 75), both_outputs(machines)

    processes = start(machines)
    assert [process.wait(90) for process in processes] == [0, 0], both_outputs(machines)
    assert read_json(run_dir / "env.json")["world_size"] == 2
    assert "best" in machines[1].output() and "best" not in machines[0].output()  # the head tells, and only the head
    assert not (machines[0].folder / "runs").exists()
    ranks.run("train", *SETTINGS, "run.name=one", world_size=2)
    assert ledger.digest(run_dir, STEPS) == ledger.digest(ranks.folder / "runs" / "one", STEPS)


def both_outputs(machines: list[Machine]) -> str:
    return "\n---\n".join(machine.output() for machine in machines)


MISTAKES = {
    "--nodes 0": "--nodes 0: a number of machines, 1 or more",
    "--nodes 2 --head a": "--rank '': which of the 2 machines is this? 0 to 1",
    "--nodes 2 --rank 2 --head a": "--rank '2': which of the 2 machines is this? 0 to 1",
    "--nodes 2 --rank 1": "--head HOST is missing",
    "--nodes 2 --rank 1 --head localhost:1234": "--head localhost: that is every machine itself",
    "--nodes 2 --rank 0 --head 127.0.1.1": "--head 127.0.1.1: that is every machine itself",
    "--nodes 2 --rank 0 --head [::1]:29400": "--head [::1]: that is every machine itself",
    "--rank 0": "--rank and --head are for several machines: give --nodes N too",
    "--processes none": "--processes none: a number of processes, 1 or more",
    "--bind node": "--bind node: there is no GPU here",
    "--head": "--head needs a value (see --help)",
    "-c x.yaml a=b --nodes=0": "--nodes 0: a number of machines, 1 or more",
    "--nodes 2 --rank 1 --head a:99999": "--head a:99999: a port is a number from 1 to 65535",
    "--nodes 2 --rank 1 --head a --wait soon": "--wait soon: a number of seconds, 1 or more",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_answered_at_once(words):
    done = subprocess.run([NODE, *words.split()], env=ENVIRONMENT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and done.stderr.startswith(f"node.sh: error: {MISTAKES[words]}")


def test_a_head_whose_name_means_loopback_is_found_out(machines):
    """As on Debian, where /etc/hosts has a machine's own name beside 127.0.1.1."""
    hosts = machines[0].folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 trainer-0\n")
    options = "--nodes 2 --rank 0 --head trainer-0"
    in_its_own_etc = f"mount --bind {hosts} /etc/hosts && exec {NODE} {options}"
    process = machines[0].start("unshare", "--mount", "bash", "-c", in_its_own_etc)
    assert process.wait(20) == 2
    assert "trainer-0 is 127.0.1.1 here, which no other machine can reach" in machines[0].output()
    assert f"Give the head's address instead: --head {machines[0].address} (interface cable)." in machines[0].output()


def test_machines_whose_ranks_were_mixed_up_are_told(machines):
    head = machines[0].address
    options = ["--nodes", "2", "--head", head, "--print"]
    for machine, rank, words in (
        (machines[1], "0", f"this machine has {machines[1].address}, and --head is {head}: is it --rank 1?"),
        (machines[0], "1", f"--head {head} is this machine itself, so its --rank is 0, not 1."),
    ):
        assert machine.start(NODE, *options, "--rank", rank).wait(20) == 2
        assert words in machine.output() and "add --unchecked-head" in machine.output()
        assert machine.start(NODE, *options, "--rank", rank, "--unchecked-head").wait(20) == 0
    assert machines[0].start(NODE, *options, "--rank", "0", "--interface", "nope0").wait(20) == 2
    assert "--interface nope0: nope0 does not exist or has no address. Give cable." in machines[0].output()


@pytest.mark.parametrize(
    ("rank", "announced", "told"),
    [
        (
            0,
            "waiting for 1 other machine(s) at 10.77.0.1:29400, up to 4 s",
            "not all 2 machines came to 10.77.0.1:29400",
        ),
        (1, "waiting for the head at 10.77.0.1:29400, up to 4 s", "no answer from 10.77.0.1:29400: is rank 0 started"),
    ],
)
def test_a_machine_that_waits_in_vain_says_for_whom(machines, rank, announced, told):
    options = ["--nodes", "2", "--head", machines[0].address, "--wait", "4", "--rank", str(rank), "--processes", "1"]
    assert machines[rank].start(NODE, *options).wait(60) == 1
    lines = machines[rank].output().splitlines()
    assert any(line.endswith(announced) for line in lines)
    assert lines[-1].startswith(f"node.sh: error: {told}"), machines[rank].output()


def test_a_machine_with_gpus_gets_a_process_for_each_and_shares_its_cores(tmp_path):
    (tmp_path / "numactl").symlink_to("/bin/true")
    env = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "0,1,2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    env.pop("OMP_NUM_THREADS", None)
    line = subprocess.run([NODE, "--bind", "node", "a=b c", "--print"], env=env, capture_output=True, text=True).stdout
    threads = max((os.cpu_count() or 1) // 3, 1)
    assert f"OMP_NUM_THREADS={threads} " in line and "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120 " in line
    assert " --nnodes 1 --nproc-per-node 3 --standalone " in line
    assert line.endswith("--numa-binding node -m distcls.train a=b\\ c \n")


def test_processes_go_on_unbound_where_nothing_can_bind_them(tmp_path):
    for name in ("dirname", "readlink", "tr", "grep", "sed", "nproc", "env", "sort", "bash"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    env = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "0", "PATH": str(tmp_path)}
    done = subprocess.run([NODE, "--bind", "node", "--print"], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "--numa-binding" not in done.stdout
    assert "processes are not bound to CPUs near their GPU, for there is no numactl here" in done.stderr


@pytest.mark.parametrize(
    ("words", "asked_for"),
    [
        ("--name x", " --name x run.device=cuda \n"),
        ("run.device=cpu", " run.device=cpu \n"),
        ("-c cpu.yaml", " -c cpu.yaml \n"),
        ("a=b -- --print", " a=b --print \n"),  # wrong, which distcls will say
    ],
)
def test_gpus_that_are_here_are_asked_for_unless_the_config_says_otherwise(tmp_path, words, asked_for):
    (tmp_path / "cpu.yaml").write_text("run:\n  device: cpu\n")
    env = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "0"}
    command = [NODE, "--print", *words.split()]
    line = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    assert line.endswith(f"-m distcls.train{asked_for}")


def test_gpus_that_are_hidden_are_not_counted():
    env = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "-1"}
    line = subprocess.run([NODE, "--print"], env=env, capture_output=True, text=True).stdout
    assert "--nproc-per-node 1 " in line and line.endswith("-m distcls.train \n")
