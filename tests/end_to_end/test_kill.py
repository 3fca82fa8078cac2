"""The promise that a kill costs nothing: kill -9, start again, and the weights are those of a run never killed."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import ledger
import pytest
from ranks import Group, read_json

STEPS = 40
SETTINGS = [
    "model.name=ledger:make",
    "model.channels_last=true",
    "optim.name=sgd",
    "optim.lr=0.05",
    "optim.momentum=0.9",
    "optim.fused=true",
    *ledger.AUGMENT,
    *ledger.BALANCE,
    "train.global_batch_size=32",
    "train.micro_batch_size=4",
    "train.ema_decay=0.9",
    "train.eval_every=4 steps",
    "train.eval_batch_size=16",
    "train.checkpoint_every=3 steps",
    "train.num_threads=1",
    "run.trackers=[]",
    f"train.num_steps={STEPS}",
]


def await_status(run_dir: Path, group: Group, step: int, phase: str | None, limit: float = 60) -> dict | None:
    """status.json when it shows this step (and phase), or a later one; None where the run ended before."""
    end, pids = time.monotonic() + limit, [process.pid for process in group.processes]
    while time.monotonic() < end:
        if not group.alive():
            return None
        try:
            status = read_json(run_dir / "status.json")
        except FileNotFoundError:
            continue
        is_theirs = status["pid"] in pids  # a run that was killed left one that says running, too
        if is_theirs and status["step"] >= step and phase in (None, status["phase"]):
            return status
        time.sleep(0.001)
    raise AssertionError(f"step {step} {phase} was not reached in {limit} s\n{group.output()}")


@pytest.mark.parametrize(("world_size", "workers", "memory"), [(1, 0, "0"), (2, 2, "0"), (4, 0, "4 GB")])
def test_killed_runs_end_with_the_bits_of_a_run_never_killed(ranks, world_size, workers, memory, record_property):
    draw = random.Random(world_size)
    settings = [*SETTINGS, f"data.workers={workers}", f"data.cache={memory}"]
    ranks.run("train", "--name", "whole", *settings, world_size=world_size)
    killed_in: Counter[str] = Counter()
    run_dir = ranks.folder / "runs" / "killed"
    targets = sorted(draw.sample(range(2, STEPS - 8), 3))
    for step, phase in zip(targets, (None, "evaluate", "save"), strict=True):
        group = ranks.start("train", "--name", "killed", *settings, world_size=world_size)
        status = await_status(run_dir, group, step, phase)
        time.sleep(draw.random() * 0.01)
        group.kill()
        killed_in[status["phase"] if status else "after the end"] += 1
    ranks.run("train", "--name", "killed", *settings, world_size=world_size)
    assert read_json(run_dir / "status.json")["state"] == "finished"
    assert read_json(run_dir / "env.json")["world_size"] == world_size
    print(f"killed at {targets}, in: {dict(killed_in)}")
    record_property("killed_in", dict(killed_in))
    assert killed_in["after the end"] == 0
    whole = ledger.digest(ranks.folder / "runs" / "whole", STEPS)
    assert any(name.startswith("ema.") for name in whole) and any(name.startswith("optimizer.") for name in whole)
    assert any(name.endswith("running_var") for name in whole)
    assert ledger.digest(run_dir, STEPS) == whole
    assert metrics_rows(run_dir) == metrics_rows(ranks.folder / "runs" / "whole")


def metrics_rows(run_dir: Path) -> list[tuple]:
    """What metrics.csv says, without the columns that tell of time."""
    from distcls.runs.tracking.metrics_file import read_metrics

    timing = ("time", "images_per_second", "data_time")
    return [tuple(v for k, v in row.items() if k not in timing) for row in read_metrics(run_dir / "metrics.csv")]


def test_a_built_in_model_that_ddp_need_not_search_is_resumed_to_the_bit_on_two_processes(ranks):
    """DDP rearranges its buckets after the first step of each start, which cannot matter to a sum of two."""
    settings = ["train.num_steps=12", "train.checkpoint_every=2 steps", "run.trackers=[]", "train.num_threads=1"]
    settings += ["model.args={hidden: 512}", "train.micro_batch_size=16"]
    ranks.run("train", "--name", "whole", *settings, world_size=2)
    run_dir = ranks.folder / "runs" / "killed"
    group = ranks.start("train", "--name", "killed", *settings, world_size=2)
    await_status(run_dir, group, 4, None)
    group.kill()
    ranks.run("train", "--name", "killed", *settings, world_size=2)
    assert ledger.digest(run_dir, 12) == ledger.digest(ranks.folder / "runs" / "whole", 12)
