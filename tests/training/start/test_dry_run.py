"""--dry-run refuses whatever the run then refuses, and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image


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
        ("optim.lookahead={every: 999}", "the slow weights would never move", 2),
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


@pytest.mark.parametrize("option", ["--dry-run", "--print-config"])
def test_no_data_set_is_downloaded(ranks, option: str) -> None:
    settings = ["data.name=cifar10", "data.root=here", "data.download=true"]
    told = ranks.run("train", option, *settings, "preset=balanced", expect=66 if option == "--dry-run" else 0)
    assert "downloads nothing, even with data.download=true" in told and "cannot download" not in told
    assert not (ranks.folder / "here").exists()


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


def test_the_printed_config_is_the_one_that_a_run_would_use(ranks) -> None:
    """Of a preset, too, and it gives the same run when it is used as a file: all of it then counts as given."""
    for i in range(40):
        folder = ranks.folder / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 72, 3), np.uint8)).save(folder / f"{i}.png")
    words = ["--data", "photos", "--print-config", "optim.weight_decay=0.03"]
    printed = ranks.run("train", *words).partition("\n")[2]  # the first line is that of the tests
    config = yaml.safe_load(printed)
    assert (config["preset"], config["optim"]["weight_decay"]) == ("balanced", 0.03)
    assert config["model"]["name"] == "timm/tf_efficientnet_lite0.in1k" and config["data"]["image_size"] == 224
    assert config["train"]["num_epochs"] == 10 and config["train"]["global_batch_size"] == 16
    missing = ranks.run("train", "--data", "nowhere", "--print-config")
    assert "does not exist" in missing and "Settings that a run would choose from its images are not shown." in missing
    assert "preset: auto" in missing, "launchers ask for a setting where the images are not"
    (ranks.folder / "mine.yaml").write_text(printed)
    assert ranks.run("train", "-c", "mine.yaml", "--print-config").endswith(printed)
    told = ranks.run("train", "--data", "photos", "--dry-run", "optim.weight_decay=0.03", "--name", "a")
    again = ranks.run("train", "-c", "mine.yaml", "--dry-run", "--name", "a")
    shown = [line for line in again.splitlines()[1:] if not line.startswith("preset")]
    assert shown == [line for line in told.splitlines()[1:] if not line.startswith("preset")]
