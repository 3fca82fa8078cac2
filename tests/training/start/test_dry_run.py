"""--dry-run refuses whatever the run then refuses, and leaves nothing behind."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("setting", "expected", "code"),
    [
        ("loss.name=focl", "there is no such loss. Did you mean 'focal'?", 2),
        ("optim.name=adamm", "there is no such optimizer. Did you mean", 2),
        ("run.trackers=[tensorbord]", "run.trackers names 'tensorbord', which is not a tracker", 2),
        ("model.init_from=nope.pt", "nope.pt: no weights found", 66),
        ("augment.transforms=[{name: RandAugmen}]", "has no 'RandAugmen' in transforms.v2. Did you mean", 2),
        ("loss.class_weights={'11': 2}", "there is no class '11'", 2),
        ("model.freeze=[block]", "no parameter name begins with 'block'", 2),
        ("model.freeze_until={block: 1 epoch}", "no parameter name begins with 'block'", 2),
        ("model.freeze_until=30 epochs", "steps, but the run has only 607", 2),
        ("optim.warmup=99 epochs", "its learning rate would never reach optim.lr", 2),
    ],
)
def test_what_the_run_refuses_is_refused(ranks, setting: str, expected: str, code: int) -> None:
    assert expected in ranks.run("train", "--dry-run", setting, expect=code)
    assert not (ranks.folder / "runs").exists()


def test_a_model_without_blocks_cannot_compute_them_again(ranks) -> None:
    settings = ["model.name=torchvision/alexnet", "data.image_size=64", "train.checkpoint_activations=true"]
    told = ranks.run("train", "--dry-run", *settings, expect=2)
    assert "cannot be used with model.name=torchvision/alexnet: it has no blocks to recompute" in told


def test_what_the_run_takes_is_shown(ranks) -> None:
    told = ranks.run("train", "--dry-run", "train.deterministic=true", world_size=2)
    assert (
        "64 = 2 processes × 16 images × 2 accumulation steps" in told
        and "1, 2 or 4 processes can share this run" in told
    )
    assert not (ranks.folder / "runs").exists()


def test_a_batch_that_no_machine_holds_is_warned_of(ranks) -> None:
    told = ranks.run("train", "--dry-run", "train.global_batch_size=10000000")
    assert "OUT OF MEMORY? A step needs about" in told and "try train.micro_batch_size=" in told
