"""A run folder whose files about the data are damaged, and data that changed under a run: resumed or explained."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ranks import Ranks, read_json

SETTINGS = [
    "model.name=cnn2", "train.global_batch_size=8", "train.num_threads=1", "run.trackers=[]", "--name", "r",
]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """32 images of noise in two classes, of one size and one time of change."""
    draw = np.random.default_rng(0)
    for i in range(32):
        file = tmp_path / "images" / f"class{i % 2}" / f"{i:02}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(file)
        os.utime(file, (7, 7))
    return tmp_path / "images"


def test_files_about_the_data_are_written_anew_by_a_run_that_is_resumed(ranks: Ranks, images: Path) -> None:
    ranks.run("train", "--data", "images", *SETTINGS, "train.num_steps=2")
    run_dir = ranks.folder / "runs" / "r"
    names = ("data_report.json", "classes.json", "preprocessing.json")
    whole = {name: read_json(run_dir / name) for name in names}
    for name in names:
        (run_dir / name).write_text("{")
    output = ranks.run("predict", "runs/r", "images/class0/00.bmp", expect=74)
    assert "runs/r/classes.json is damaged" in output and "Traceback" not in output
    ranks.run("train", "--data", "images", *SETTINGS, "train.num_steps=4")
    assert {name: read_json(run_dir / name) for name in names} == whole
    for name in ("data_report.json", "splits.json"):
        (run_dir / name).unlink()
    output = ranks.run("train", "--data", "images", *SETTINGS, "train.num_steps=6", expect=74)
    assert "data_report.json and splits.json are damaged or missing" in output and "Traceback" not in output


def test_images_that_changed_places_between_two_starts_are_another_data_set(ranks: Ranks, images: Path) -> None:
    ranks.run("train", "--data", "images", *SETTINGS, "train.num_steps=2")
    first, second, away = images / "class0" / "00.bmp", images / "class1" / "01.bmp", images / "away"
    first.rename(away)
    second.rename(first)
    away.rename(second)
    output = ranks.run("train", "--data", "images", *SETTINGS, "train.num_steps=4", expect=2)
    assert "the data is not what runs/r began with:\n  no image was added or removed" in output
    second.rename(away)
    first.rename(second)
    away.rename(first)
    ranks.run("train", "--data", "images", *SETTINGS, "train.num_steps=4")


@pytest.mark.timeout(120)
def test_a_pipe_among_the_images_is_named_and_nothing_waits_for_it(ranks: Ranks, images: Path) -> None:
    os.mkfifo(images / "class0" / "pipe.png")
    settings = [*SETTINGS, "train.num_steps=1", "data.max_bad_fraction=0.1"]
    ranks.run("train", "--data", "images", *settings)
    report = read_json(ranks.folder / "runs" / "r" / "data_report.json")
    assert report["bad_files"] == [{"path": "class0/pipe.png", "reason": "a named pipe instead of a file"}]
    output = ranks.run("predict", "runs/r", "images/class0")
    assert "pipe.png: a named pipe instead of a file" in output
