"""Image files that were good when the run began: in training one weighs nothing, in an evaluation it ends the run."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import failing_disk
import numpy as np
import pytest
from PIL import Image
from ranks import Ranks, await_step, read_json

from distcls.runs.resuming import newest_step
from distcls.runs.tracking.metrics_file import read_metrics

SETTINGS = [
    "data.cache=0", "data.image_size=8", "model.name=ledger:make", "train.global_batch_size=12",
    "train.micro_batch_size=3", "train.num_threads=1", "run.trackers=[]", "--name", "r",
]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """train/ with 24 and val/ with 6 images of noise, in two classes."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for i in range(count):
            file = tmp_path / "images" / split / f"class{i % 2}" / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(file)
    return tmp_path / "images"


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (2, 0)])
def test_in_training_it_weighs_nothing_and_is_reported_once(ranks: Ranks, images: Path, world_size: int, workers: int):
    command = ["train", "--data", str(images), *SETTINGS, f"data.workers={workers}", "data.test_fraction=0"]
    command += ["loss.name=poisoned_images:constant_loss", "train.log_every=1"]
    ranks.run(*command, "train.num_steps=2", world_size=world_size)
    setup = functools.partial(failing_disk.break_files, ["train/class0/04.png", "train/class1/07.png"])
    output = ranks.run(*command, "train.num_steps=10", world_size=world_size, setup=setup)
    run_dir = ranks.folder / "runs" / "r"
    for name in ("class0/04.png", "class1/07.png"):
        assert (
            output.count(f"became unreadable during training and is ignored from now on: train/{name}: not an image")
            == 1
        )
    assert "some images became unreadable during training" in output
    assert sorted(line.split(":")[0] for line in (run_dir / "went_bad.txt").read_text().splitlines()) == [
        "train/class0/04.png",
        "train/class1/07.png",
    ]
    assert read_json(run_dir / "status.json")["state"] == "finished"
    losses = [row["loss"] for row in read_metrics(run_dir / "metrics.csv") if row["split"] == "train"]
    by_epoch = [sum(pair) for pair in zip(losses[::2], losses[1::2], strict=True)]
    assert by_epoch == pytest.approx([2400, 2200, 2200, 2200, 2200])


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_folder_that_disappears_stops_the_run_until_it_is_back(ranks: Ranks, images: Path, world_size: int):
    command = ["train", "--data", str(images), *SETTINGS, "data.test_fraction=0", "train.checkpoint_every=5 steps"]
    command += ["train.num_steps=100000", "train.eval_every=100000 steps"]
    run_dir = ranks.folder / "runs" / "r"
    group = ranks.start(*command, world_size=world_size)
    await_step(run_dir, 5)
    away = images.rename(images.with_name("unplugged"))
    assert 65 in group.wait(60), group.output()
    told = group.output().rpartition("distcls: error: ")[2]
    assert "6 of 24 images are unreadable, more than data.max_bad_fraction=0.01" in told and "to resume" in told
    assert "Traceback" not in told
    away.rename(images)
    kept = newest_step(run_dir)
    group = ranks.start(*command, world_size=world_size)
    await_step(run_dir, kept + 5)
    group.kill()
    assert f"resuming from step {kept:,}" in group.output() and "unreadable" not in group.output()


def test_in_an_evaluation_it_is_an_error_that_names_it(ranks: Ranks, images: Path):
    command = ["train", "--data", str(images), *SETTINGS, "data.workers=1", "data.test_fraction=0"]
    ranks.run(*command, "train.num_steps=1")
    setup = functools.partial(failing_disk.break_files, ["val/class0/02.png"])
    output = ranks.run("eval", "runs/r", "--split", "val", expect=65, setup=setup)
    assert "val/class0/02.png: not an image" in output and "Traceback" not in output


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_loader_worker_that_is_killed_ends_the_run_and_says_so(ranks: Ranks, images: Path, world_size: int):
    command = ["train", "--data", str(images), *SETTINGS, "data.workers=1", "train.num_steps=100000"]
    group = ranks.start(*command, world_size=world_size)
    await_step(ranks.folder / "runs" / "r", 3)
    rank = group.processes[-1]
    children = Path(f"/proc/{rank.pid}/task/{rank.pid}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)
    assert children and group.wait() == [71] * world_size, group.output()
    message = group.output().rpartition("distcls: error: ")[2]  # Python may tell before where torch's news came in
    assert message.startswith("DataLoader worker") and "data.workers=1" in message
    assert "DataLoader worker" in read_json(ranks.folder / "runs" / "r" / "status.json")["reason"]
    assert "Traceback" not in message
