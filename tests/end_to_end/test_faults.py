"""One process that raises, is killed or hangs ends the whole run in seconds, says why, and costs no more than steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import ledger
import pytest
from ranks import await_step, free_port, rank_environment, read_json

from distcls.cluster import joining, processes

SETTINGS = [
    *["train.global_batch_size=32", "train.num_threads=1", "train.checkpoint_every=2 steps", "train.num_steps=12"],
    *["run.trackers=[]", "run.hang_timeout=6", "train.eval_every=100 steps"],
]


def faulty(fault: str, rank: int) -> list[str]:
    return ["--name", "a", *SETTINGS, "model.name=faulty_model:make", f"model.args={{fault: {fault}, rank: {rank}}}"]


@pytest.mark.parametrize(
    ("fault", "rank", "codes", "words"),
    [
        ("raises", 1, [1, 1], ["ValueError: the fifth forward pass", "process 1 ended: ValueError"]),
        ("raises", 0, [1, 1], ["ValueError: the fifth forward pass"]),
        ("runs out of CPU memory", 0, [71, 71], ["16 images at once do not fit"]),
        ("runs out of memory", 1, [71, 71], ["16 images at once do not fit", "train.micro_batch_size=8"]),
        ("is killed", 1, [1, -9], ["process 1 is gone without an error: killed"]),
        ("hangs", 1, [1, 1], ["no process has made progress for 6 s", "process 1: ", "faulty_model.py:", " fail"]),
    ],
)
def test_a_fault_on_one_process_ends_all_soon_and_the_run_goes_on(ranks, fault, rank, codes, words):
    (ranks.folder / "faulty").touch()
    start = time.monotonic()
    group = ranks.start("train", *faulty(fault, rank), world_size=2)
    assert group.wait(60) == codes, group.output()
    output = group.output()
    assert all(word in output for word in words), output
    assert output.count("Traceback") == (fault == "raises"), output
    status = read_json(ranks.folder / "runs" / "a" / "status.json")
    assert status["state"] == "failed" and status["reason"]
    assert time.monotonic() - start < 45
    (ranks.folder / "faulty").unlink()
    ranks.run("train", *faulty(fault, rank), world_size=2)
    ranks.run("train", *faulty(fault, rank), "run.name=b", world_size=2)
    runs = ranks.folder / "runs"
    assert ledger.digest(runs / "a", 12) == ledger.digest(runs / "b", 12)


def test_a_process_with_loader_workers_ends_too_when_another_is_killed(tmp_path):
    """At its exit a real interpreter ends its workers by a signal, and waits for them."""
    (tmp_path / "faulty").touch()
    words = [*faulty("is killed", 1), "run.hang_timeout=60", "augment.transforms=[{name: RandAugment}]"]
    tests, port = Path(__file__).parents[1], free_port()
    shared = {"PYTHONPATH": f"{tests.parent}:{tests}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "distcls.train", *words],
            cwd=tmp_path, env={**os.environ, **shared, **rank_environment(rank, 2, port)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        _, told = started[0].communicate(timeout=60)
        assert [process.wait(10) for process in started] == [1, -9], told
        assert "process 1 is gone" in told and "Run the same command to resume from the last checkpoint" in told
    finally:
        for process in started:
            process.kill()


def test_when_the_main_process_is_killed_the_others_end_and_say_so(ranks):
    (ranks.folder / "faulty").touch()
    group = ranks.start("train", *faulty("is killed", 0), world_size=2)
    assert group.wait(60) == [-9, 1], group.output()
    assert "process 0 is gone without an error: killed" in group.output()
    status = read_json(ranks.folder / "runs" / "a" / "status.json")
    assert status["state"] == "failed" and "process 0 is gone without an error" in status["reason"]


def test_when_the_main_process_is_killed_under_torchrun_the_others_say_so_too(tmp_path):
    """The store is torchrun's there, and does not go with process 0."""
    (tmp_path / "faulty").touch()
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        "-m",
        "distcls.train",
    ]
    done = subprocess.run(
        [*command, *faulty("is killed", 0)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 1 and "distcls: error: process 0 is gone without an error: killed" in done.stderr
    status = read_json(tmp_path / "runs" / "a" / "status.json")
    assert status["state"] == "failed" and "process 0 is gone without an error" in status["reason"]


def test_under_torchrun_the_last_that_is_said_is_the_sentence(tmp_path):
    """Its own report names the root cause at its end: ours, instead of advice about tracebacks."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*launcher, "-m", "distcls.train", "data.root=nowhere", "data.name=folder"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    root_cause = done.stderr[done.stderr.index("Root Cause") :]
    assert "nowhere does not exist. Give the folder that holds" in root_cause
    assert "To enable traceback" not in done.stderr
    assert done.stderr.count("distcls: error: the image folder") == 1


def test_an_image_that_hangs_before_training_ends_the_run_and_is_pointed_at(ranks):
    settings = ["--name", "a", *SETTINGS, "data.name=hanging_images:make", "data.image_size=8", "run.hang_timeout=3"]
    group = ranks.start("train", *settings, world_size=2)
    assert group.wait(60) == [1, 1], group.output()
    assert "no process has made progress for 3 s" in group.output()
    assert "hanging_images.py:" in group.output()
    assert read_json(ranks.folder / "runs" / "a" / "status.json")["state"] == "failed"


def test_a_run_whose_last_step_broke_its_weights_has_not_finished(ranks):
    settings = [*SETTINGS, "train.num_steps=1", "optim.name=sgd", "optim.lr=3e38"]
    output = ranks.run("train", "--name", "a", *settings, expect=70)
    assert "not finite" in output or "a loss of nan" in output
    assert read_json(ranks.folder / "runs" / "a" / "status.json")["state"] == "failed"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_while_data_is_prepared_ends_all_with_75_and_nothing_to_save(ranks, rank):
    settings = ["--name", "a", *SETTINGS, "data.name=slow_images:make"]
    group = ranks.start("train", *settings, world_size=2)
    end = time.monotonic() + 60
    while not (ranks.folder / "opening").exists():
        assert time.monotonic() < end and group.alive(), group.output()
        time.sleep(0.01)
    os.kill(group.processes[rank].pid, signal.SIGUSR2)
    assert group.wait(15) == [75, 75], group.output()
    status = read_json(ranks.folder / "runs" / "a" / "status.json")
    assert (status["state"], status["step"]) == ("preempted", 0)
    assert "SIGUSR2 before training began" in status["reason"]
    assert "Traceback" not in group.output()


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_signal_in_an_evaluation_saves_and_the_evaluation_comes_first_when_the_run_goes_on(ranks, world_size):
    settings = [
        *["data.name=noise_images:make_images", "model.name=slow_evaluation:make", "train.global_batch_size=30"],
        *["train.num_threads=1", "train.eval_every=3 steps", "train.num_steps=6"],
        f"train.eval_batch_size={120 // world_size}",
        *["run.trackers=[]", "train.checkpoint_every=100 steps"],
    ]
    group = ranks.start("train", "--name", "a", *settings, world_size=world_size)
    run_dir = ranks.folder / "runs" / "a"
    await_step(run_dir, 3)
    while read_json(run_dir / "status.json")["phase"] != "evaluate":
        assert group.alive(), group.output()
    os.kill(group.processes[-1].pid, signal.SIGTERM)
    assert group.wait(30) == [75] * world_size, group.output()
    status = read_json(run_dir / "status.json")
    assert (status["state"], status["step"]) == ("preempted", 3)
    assert "val" not in (run_dir / "metrics.csv").read_text()
    ranks.run("train", "--name", "a", *settings, world_size=world_size)
    ranks.run("train", "--name", "b", *settings, world_size=world_size)
    assert ledger.digest(run_dir, 6) == ledger.digest(ranks.folder / "runs" / "b", 6)


def test_processes_that_were_suspended_together_go_on(ranks):
    settings = ["--name", "a", *SETTINGS, "train.num_steps=400", "run.hang_timeout=2"]
    group = ranks.start("train", *settings, world_size=2)
    await_step(ranks.folder / "runs" / "a", 3)
    for process in group.processes:
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4)
    for process in group.processes:
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.5)
    assert group.wait() == [0, 0], group.output()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_signal_while_a_checkpoint_is_written_loses_nothing(ranks, world_size):
    settings = ["--name", "a", *SETTINGS, "train.num_steps=2000", "model.name=ledger:make", "model.args={width: 128}"]
    group = ranks.start("train", *settings, world_size=world_size)
    run_dir = ranks.folder / "runs" / "a"
    await_step(run_dir, 5)
    end = time.monotonic() + 30
    while not any((run_dir / "checkpoints").glob(".writing-step-*")):
        assert time.monotonic() < end and group.alive(), group.output()
    os.kill(group.processes[-1].pid, signal.SIGUSR1)
    assert group.wait(30) == [75] * world_size, group.output()
    status = read_json(run_dir / "status.json")
    assert status["state"] == "preempted"
    assert (run_dir / "checkpoints" / f"step-{status['step']:08d}" / "manifest.json").exists()
    assert not any((run_dir / "checkpoints").glob(".writing-*"))


def one_dies_before_it_joins() -> None:
    joining.NOTICE, processes.TIMEOUT = 0.2, timedelta(seconds=12)
    if os.environ["RANK"] == "1":
        os._exit(9)


def test_a_process_killed_before_it_joins_is_named_in_the_status(ranks):
    words = ["train", "--name", "a", *SETTINGS]
    group, run_dir = ranks.start(*words, world_size=2, setup=one_dies_before_it_joins), ranks.folder / "runs" / "a"
    await_step(run_dir, 0)
    assert read_json(run_dir / "status.json")["reason"] == "process 0 is waiting for process 1 of 2 to start"
    assert "runs/a is in use by process" in ranks.run(*words, expect=2)
    assert group.wait() == [1, 9], group.output()
    status = read_json(run_dir / "status.json")
    assert status["state"] == "failed" and status["reason"].startswith("process 1 of 2 did not start within 12 s")
    ranks.run(*words, world_size=2)
    assert read_json(run_dir / "status.json")["state"] == "finished"
