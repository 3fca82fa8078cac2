"""What only a CUDA GPU can show. These wait for a machine that has one: `benchmarks/gpu.sh` runs them."""

from __future__ import annotations

import time

import ledger
import pytest
import torch
from ranks import read_json

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
SETTINGS = [
    *["model.name=resnet9", "data.image_size=16", *ledger.AUGMENT],
    *["train.num_steps=20", "train.global_batch_size=32", "train.micro_batch_size=8", "train.ema_decay=0.9"],
    *["train.checkpoint_every=4 steps", "train.eval_every=8 steps", "optim.lr=1e-3", "run.trackers=[]"],
]


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_killed_run_ends_with_the_bits_of_one_never_killed(ranks, precision):
    settings = [*SETTINGS, f"train.precision={precision}"]
    ranks.run("train", "--name", "whole", *settings, gpus="0")
    assert read_json(ranks.folder / "runs" / "whole" / "env.json")["device"] == "cuda"
    group = ranks.start("train", "--name", "killed", *settings, gpus="0")
    while not list((ranks.folder / "runs" / "killed").glob("checkpoints/step-*")) and group.alive():
        time.sleep(0.01)
    group.kill()
    ranks.run("train", "--name", "killed", *settings, gpus="0")
    assert digest(ranks, "killed") == digest(ranks, "whole")


def test_deterministic_mode_repeats_itself(ranks):
    for name in ("a", "b"):
        ranks.run("train", "--name", name, *SETTINGS, "train.deterministic=true", gpus="0")
    assert digest(ranks, "a") == digest(ranks, "b")


def digest(ranks, name: str) -> dict[str, str]:
    return ledger.digest(ranks.folder / "runs" / name, 20)
