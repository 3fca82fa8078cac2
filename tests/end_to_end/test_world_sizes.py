"""The promise of 1, 2 and 4 processes: the same pixels in the same micro-batches, and the same weights."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import ledger
import pytest
from ranks import LIMIT, read_json

STEPS = 50
FEATURES = [
    "model.name=ledger:make",
    *ledger.AUGMENT,
    *ledger.BALANCE,
    "train.ema_decay=0.9",
    "train.max_grad_norm=1.0",
    "optim.name=adamw",
    "optim.warmup=5 steps",
    "train.eval_every=20 steps",
    "data.workers=0",
    "run.trackers=[]",
    f"train.num_steps={STEPS}",
    "train.num_threads=1",  # two would fight over the cores with whatever else runs
]


def train(ranks, *settings: str) -> dict[int, Path]:
    """The run folders on 1, 2 and 4 processes; all train at once, since one process leaves a core idle."""
    started = {}
    for world_size in (1, 2, 4):
        folder = ranks.folder / f"ledger-w{world_size}"
        folder.mkdir()
        words = ["train", "--name", f"w{world_size}", *FEATURES, f"model.args.ledger={folder}", *settings]
        started[world_size] = ranks.start(*words, world_size=world_size)
    runs = {}
    for world_size, group in started.items():
        group.finish()
        runs[world_size] = ranks.folder / "runs" / f"w{world_size}"
        assert read_json(runs[world_size] / "env.json")["world_size"] == world_size
    return runs


@pytest.mark.parametrize("micro_batches", [8, 12])
def test_the_same_pixels_and_float64_weights_on_1_2_and_4_processes(ranks, micro_batches):
    settings = [f"train.global_batch_size={micro_batches * 5}", "train.micro_batch_size=5", "train.precision=float64"]
    runs = train(ranks, *settings)
    entered = {w: ledger.read(ranks.folder / f"ledger-w{w}") for w in runs}
    expected = sorted(map(tuple, entered[1][0]))
    assert len(expected) == STEPS * micro_batches
    for world_size, by_rank in entered.items():
        assert [len(by_rank[r]) for r in range(world_size)] == [STEPS * micro_batches // world_size] * world_size
        assert sorted(tuple(m) for micros in by_rank.values() for m in micros) == expected
    one = ledger.load(runs[1], STEPS)
    for world_size in (2, 4):
        for name, tensor in ledger.load(runs[world_size], STEPS).items():
            scale = 1.0 if is_bias_before_batchnorm(name) else one[name].double().norm().item()
            distance = (tensor.double() - one[name].double()).norm().item()
            assert distance <= 1e-10 * max(scale, 1e-30), f"{name} on {world_size}: {distance / scale}"


def is_bias_before_batchnorm(name: str) -> bool:
    """Its gradient is zero but for rounding, so only its absolute size means anything."""
    return name.endswith("network.4.bias")


@pytest.mark.parametrize("micro_batches", [8, 12])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_deterministic_mode_gives_the_same_bits_on_1_2_and_4_processes(ranks, micro_batches, precision):
    settings = [
        f"train.global_batch_size={micro_batches * 5}",
        "train.micro_batch_size=5",
        f"train.precision={precision}",
        "train.deterministic=true",
    ]
    digests = {world_size: ledger.digest(run, STEPS) for world_size, run in train(ranks, *settings).items()}
    assert len(digests[1]) > 40
    assert digests[2] == digests[1]
    assert digests[4] == digests[1]


def test_a_deterministic_run_as_typed_gives_the_same_bits_on_1_and_2_processes(ranks):
    """Without a word about micro-batches: their default depends on the global batch alone."""
    words = ["train", "train.deterministic=true", "train.num_steps=30", "model.args={hidden: 16}", "run.trackers=[]"]
    started = [ranks.start(*words, "--name", f"w{size}", world_size=size) for size in (1, 2)]
    outputs = [group.finish() for group in started]
    assert "64 = 1 process × 16 images × 4 accumulation steps" in outputs[0]
    assert "64 = 2 processes × 16 images × 2 accumulation steps" in outputs[1]
    one, two = (ledger.digest(ranks.folder / "runs" / f"w{size}", 30) for size in (1, 2))
    assert len(one) > 20 and two == one


def test_a_run_stopped_on_4_processes_resumes_on_2_and_then_on_1(ranks):
    """Every image of the epoch enters exactly once, and the weights are those of a run never stopped."""
    settings = [
        "data.name=noise_images:make_images", "data.args.num_train=800", "model.name=ledger:make", "optim.lr=1e-3",
        "train.global_batch_size=8", "train.micro_batch_size=2", "train.deterministic=true", "train.max_grad_norm=1",
        "train.eval_every=1 epoch", "train.ema_decay=0.9", "model.args.width=48", "run.trackers=[]",
        "train.num_epochs=1", "run.name=moved",
    ]  # fmt: skip
    folder = ranks.folder / "ledger-moved"
    folder.mkdir()
    moved = ranks.folder / "runs" / "moved"
    stops = []
    for world_size, stop_at in ((4, 3), (2, 40), (1, None)):
        group = ranks.start("train", *settings, f"model.args.ledger={folder}", world_size=world_size)
        if stop_at is not None:
            await_micro_batches(folder, 4 * stop_at)
            os.kill(group.processes[-1].pid, signal.SIGTERM)
        assert group.wait() == [75 if stop_at else 0] * world_size, group.output()
        assert read_json(moved / "env.json")["world_size"] == world_size
        stops.append(read_json(moved / "status.json")["step"])
    assert 3 <= stops[0] < stops[1] < stops[2] == 100, f"each start must do a part of the epoch: {stops}"
    entered = [image for micros in ledger.read(folder).values() for m in micros for image in m]
    assert len(entered) == len(set(entered)) == 800
    ranks.run("train", *settings[:-1], "run.name=whole", f"model.args.ledger={folder}")
    assert ledger.digest(moved, 100) == ledger.digest(ranks.folder / "runs" / "whole", 100)


def await_micro_batches(folder: Path, count: int) -> None:
    """Wait until so many have entered the network: status.json is written less often than a step is taken."""
    end = time.monotonic() + LIMIT
    while sum(map(len, ledger.read(folder).values())) < count:
        assert time.monotonic() < end, f"{count} micro-batches were not reached"
        time.sleep(0.002)
