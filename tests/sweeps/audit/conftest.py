"""A cross-validation of small images, written by hand: nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.data.build import OneProcess, build_data
from distcls.runs.results import Predictions, save_predictions

CLASSES = ("bee", "cat", "dog")


def picture(i: int) -> np.ndarray:
    """A random landscape of 32 x 32 pixels, like no other."""
    coarse = np.random.default_rng(i).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC))


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images of each class, images/CLASS/NN.png, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for label, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(picture(100 * label + i)).save(tmp_path / "images" / name / f"{i:02}.png")
    return tmp_path / "images"


@pytest.fixture
def write_folds(tmp_path: Path, images: Path) -> Callable[..., list[Path]]:
    """Writes finished runs of `folds` folds in runs/NAME, whose models are right but for some images.

    wrong: the images that the models put in another class, with that class. folds=None writes a single run. root: of
    the images, or a CSV file with them.
    """

    def write(
        wrong: dict[str, str],
        folds: int | None = 2,
        top: int | None = None,
        test_fraction: float = Config().data.test_fraction,
        root: str = "images",
        name: str = "made",
    ) -> list[Path]:
        run_dirs = []
        for fold in range(folds or 1):
            kind = "csv" if root.endswith(".csv") else "folder"
            data = {"data.name": kind, "data.root": root, "data.cache_dir": str(tmp_path / "cache")}
            data["data.test_fraction"] = test_fraction
            config = Config().replaced({**data, **({"data.folds": folds, "data.fold": fold} if folds else {})})
            run_dir = tmp_path / "runs" / (f"{name}-fold{fold}" if folds else name)
            run_dir.mkdir(parents=True, exist_ok=True)
            (run_dir / "config.yaml").write_text(to_yaml(config))
            (run_dir / "classes.json").write_text(json.dumps(CLASSES))
            (run_dir / "preprocessing.json").write_text(json.dumps({"image_size": 32, "resize": "crop"}))
            (run_dir / "status.json").write_text('{"state": "finished"}')
            for split in build_data(config.data, OneProcess()).splits()[1:]:
                names = [split.image_name(i) for i in range(len(split))]
                save_predictions(run_dir, split.name, _predict(names, split.labels, wrong, top))
            run_dirs.append(run_dir)
        return run_dirs

    return write


def _predict(names: list[str], labels: np.ndarray, wrong: dict[str, str], top: int | None) -> Predictions:
    believed = [CLASSES.index(wrong.get(name, name.split("/")[0])) for name in names]
    probs = np.full((len(names), len(CLASSES)), 0.05, np.float32)
    probs[np.arange(len(names)), believed] = 0.9
    preds = probs.argmax(1)
    classes = None
    if top is not None:
        classes = np.argsort(-probs, 1, kind="stable")[:, :top].astype(np.int32)
        probs = np.take_along_axis(probs, classes.astype(np.int64), 1)
    return Predictions(np.array(names), labels, preds, probs.max(1).astype(float), probs, classes)
