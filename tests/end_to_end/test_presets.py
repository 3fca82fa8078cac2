"""The presets for photographs, from the command as it is typed to a model that can be used."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import ledger
import numpy as np
import pytest
from PIL import Image
from ranks import await_step, read_json

SMALL = ["data.image_size=32", "run.trackers=[]", "train.num_threads=1"]


@pytest.fixture
def photographs(ranks):
    """Three classes of 80 × 64 pixels that differ in color."""
    draw = np.random.default_rng(0)
    for shade, name in enumerate(("ant", "bee", "cat")):
        (ranks.folder / "photos" / name).mkdir(parents=True)
        for i in range(16):
            pixels = draw.integers(0, 120, (64, 80, 3))
            pixels[..., shade] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(ranks.folder / "photos" / name / f"{i}.jpg")
    return ranks.folder / "photos"


def test_photographs_are_fine_tuned_by_default(ranks, photographs):
    output = ranks.run("train", "--data", "photos", "train.num_epochs=3", *SMALL)
    assert "balanced, the default for photographs (turn it off with --preset none)" in output
    assert "weights from timm/tf_efficientnet_lite0.in1k: 294 of 296 tensors" in output
    run = ranks.folder / "runs" / "photos"
    assert len(read_json(run / "weights.json")["sha256"]) == 64
    assert read_json(run / "metrics.json")["test"]["accuracy"] > 0.4
    assert read_json(run / "preprocessing.json")["crop_fraction"] == 0.875
    output = ranks.run("predict", "runs/photos", "photos/bee/0.jpg")
    assert "bee" in output
    assert "is finished" in ranks.run("train", "--data", "photos", "--name", "photos", "train.num_epochs=3", *SMALL)
    kept = ranks.run("train", "--data", "photos", "--dry-run", "--name", "kept", "model.keep_head_rows=true", *SMALL)
    assert "new head for 3 classes" in kept and "; the rows of ant, bee are kept" in " ".join(kept.split())


def settle_slowly() -> None:
    """As if weights were being downloaded."""
    from distcls.training import loop

    def wait(config: object, device: object) -> None:
        Path("settling").touch()
        time.sleep(60)

    loop.settle = wait


def test_a_signal_ends_a_start_that_is_still_downloading(ranks, photographs):
    group = ranks.start("train", "--data", "photos", "--name", "slow", setup=settle_slowly)
    await_file(ranks.folder / "settling")
    os.kill(group.processes[0].pid, signal.SIGTERM)
    assert group.wait(20) == [75]
    assert "SIGTERM before training began" in group.output()


def await_file(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def test_only_the_head_is_trained_with_the_same_bits_on_1_2_and_4_processes(ranks, photographs):
    settings = [*SMALL, "train.deterministic=true", "train.num_steps=12", "train.eval_batch_size=8"]
    digests = []
    for world_size in (1, 2, 4):
        name = f"w{world_size}"
        ranks.run(
            *("train", "--data", "photos", "--preset", "fast", "--name", name, f"data.cache_dir=cache-{name}"),
            *settings,
            world_size=world_size,
        )
        digests.append(ledger.digest(ranks.folder / "runs" / name, 12))
    assert digests[0] == digests[1] == digests[2]
    metrics = read_json(ranks.folder / "runs/w1/metrics.json")
    assert metrics == read_json(ranks.folder / "runs/w4/metrics.json")
    ranks.run("eval", "runs/w1", "--split", "val", "--json", "of_images.json")
    of_images = read_json(ranks.folder / "of_images.json")
    assert of_images["loss"] == pytest.approx(metrics["val"]["loss"], rel=1e-5), "metrics.json has that of features"
    assert of_images["accuracy"] == metrics["val"]["accuracy"]


def test_a_kill_of_a_run_on_features_costs_nothing(ranks, photographs):
    settings = [*SMALL, "train.num_steps=160", "train.checkpoint_every=5 steps", "train.eval_every=50 steps"]
    command = ["train", "--data", "photos", "--preset", "fast", "train.tta=flip", *settings]
    ranks.run(*command, "--name", "whole")
    run = ranks.folder / "runs" / "killed"
    for step in (5, 40):
        group = ranks.start(*command, "--name", "killed")
        await_step(run, step)
        assert group.alive()
        group.kill()
    output = ranks.run(*command, "--name", "killed")
    assert "computing features" not in output, "they are in the cache"
    assert ledger.digest(run, 160) == ledger.digest(ranks.folder / "runs" / "whole", 160)
    ranks.run("eval", "runs/killed")
