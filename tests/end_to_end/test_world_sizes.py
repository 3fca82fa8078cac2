"""The promise of 1, 2 and 4 processes: the same pixels in the same micro-batches, and the same weights."""

from __future__ import annotations

from pathlib import Path

import ledger
import pytest
from ranks import read_json

STEPS = 50
FEATURES = [
    "model.name=ledger:make",
    "augment.pad_crop=1",
    "augment.flip=true",
    "augment.mixup=0.4",
    "train.ema_decay=0.9",
    "train.max_grad_norm=1.0",
    "optim.name=adamw",
    "optim.warmup=5 steps",
    "train.eval_every=20 steps",
    "data.workers=0",
    "run.trackers=[]",
    "train.num_threads=1",  # two would fight over the cores with whatever else runs
]


def train(ranks, name: str, world_size: int, *settings: str, steps: int = STEPS, expect: int = 0) -> Path:
    folder = ranks.folder / f"ledger-{name}"
    folder.mkdir(exist_ok=True)
    ranks.run(
        "train", "--name", name, *FEATURES, f"train.num_steps={steps}", f"model.args.ledger={folder}", *settings,
        world_size=world_size, expect=expect,
    )  # fmt: skip
    assert read_json(ranks.folder / "runs" / name / "env.json")["world_size"] == world_size
    return ranks.folder / "runs" / name


@pytest.mark.parametrize("micro_batches", [8, 12])
def test_the_same_pixels_and_float64_weights_on_1_2_and_4_processes(ranks, micro_batches):
    settings = [f"train.global_batch_size={micro_batches * 5}", "train.micro_batch_size=5", "train.precision=float64"]
    runs = {w: train(ranks, f"w{w}", w, *settings) for w in (1, 2, 4)}
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
    digests = {w: ledger.digest(train(ranks, f"w{w}", w, *settings), STEPS) for w in (1, 2, 4)}
    assert len(digests[1]) > 40
    assert digests[2] == digests[1]
    assert digests[4] == digests[1]


def test_a_run_stopped_on_4_processes_goes_on_on_2_and_then_on_1(ranks):
    """Every image of the epoch enters exactly once, and the weights are those of a run never stopped."""
    settings = [
        "train.global_batch_size=40", "train.micro_batch_size=5", "train.deterministic=true", "augment.mixup=0",
        "augment.flip=false", "augment.pad_crop=0", "train.checkpoint_every=1 step", "optim.schedule=constant",
    ]  # fmt: skip
    whole = train(ranks, "whole", 1, *settings, steps=33)
    for world_size, steps in ((4, 7), (2, 20), (1, 33)):
        moved = train(ranks, "moved", world_size, *settings, steps=steps)
    assert ledger.digest(moved, 33) == ledger.digest(whole, 33)
    entered = [image for micros in ledger.read(ranks.folder / "ledger-moved").values() for m in micros for image in m]
    reference = [image for m in ledger.read(ranks.folder / "ledger-whole")[0] for image in m]
    assert len(entered) == 33 * 40
    assert sorted(entered) == sorted(reference)
