"""A run whose images belong to groups keeps them whole, says so, and resumes with the same groups only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from ranks import read_json

SETTINGS = [
    "--data",
    "photos",
    r"data.groups=(plant\d+)_",
    "train.num_steps=2",
    "train.num_threads=1",
    "run.trackers=[]",
]


def write_plants(folder: Path) -> None:
    """40 plants, each photographed four times."""
    draw = np.random.default_rng(0)
    for plant in range(40):
        of_class = folder / ("fern", "moss")[plant % 2]
        of_class.mkdir(parents=True, exist_ok=True)
        for i in range(4):
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(of_class / f"plant{plant}_{i}.png")


def plants(names: list[str]) -> set[str]:
    return {name.split("/")[1].split("_")[0] for name in names}


def test_plants_stay_whole_on_two_processes_and_in_folds(ranks) -> None:
    write_plants(ranks.folder / "photos")
    told = ranks.run("train", *SETTINGS, "--name", "run", world_size=2)
    assert r"train 116, val 12, test 32 images, grouped by (plant\d+)_: 40 groups" in told
    splits = read_json(ranks.folder / "runs/run/splits.json")
    of_splits = [plants(names) for names in splits.values()]
    assert sum(map(len, of_splits)) == len(set.union(*of_splits)) == 40
    told = ranks.run("train", *SETTINGS, "--name", "run", "data.groups=null", expect=2)
    assert r"data.groups: (plant\d+)_ -> null" in told

    ranks.run("crossval", *SETTINGS, "--name", "cv", "data.folds=2")
    folds = [read_json(ranks.folder / f"runs/cv-fold{fold}/splits.json") for fold in range(2)]
    assert plants(folds[0]["test"]) == plants(folds[1]["test"]) == plants(splits["test"])
    assert plants(folds[0]["val"]) == plants(folds[1]["train"]) and plants(folds[0]["train"]) == plants(folds[1]["val"])
    assert not plants(folds[0]["val"]) & plants(folds[0]["train"])

    ranks.run("eval", "runs/run", "--json", "test.json")
    assert read_json(ranks.folder / "test.json")["count"] == 32
    (ranks.folder / "photos").rename(ranks.folder / "new")
    ranks.run("eval", "runs/run", "--data", "new", "--json", "test.json")
    assert read_json(ranks.folder / "test.json")["count"] == 32
    (ranks.folder / "new" / "fern" / "plant0_0.png").rename(ranks.folder / "new" / "fern" / "other.png")
    ranks.run("eval", "runs/run", "--data", "new", "--split", "all", "--json", "all.json")
    assert read_json(ranks.folder / "all.json")["count"] == 160, "without splits, images need no group"
