"""Runs to push: one of a network of timm on photographs, and a copy of it with a temperature."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcls.cli import main
from distcls.config.loading import load_config

SIZE = 32
CLASSES = ["a | b", "été", "plain"]
SETTINGS = [
    *("data.name=folder", f"data.image_size={SIZE}", "data.interpolation=bicubic", "data.crop_fraction=0.875"),
    *(
        "model.name=timm/test_vit",
        "model.args={drop_rate: 0.1}",
        "augment.normalize={mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.25]}",
    ),
    *("train.num_steps=6", "train.global_batch_size=16", "train.num_threads=1", "train.precision=float32"),
    *("run.trackers=[]", "data.workers=0", "optim.lr=1e-3"),
]
TEMPERATURE = 1.75


def write_photographs(folder: Path) -> Path:
    """Smooth random pictures, 90 × 70 pixels, with more red in one class and more blue in another."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            coarse = (
                generator.integers(0, 160, (7, 9, 3))
                + np.array([95, 0, 0]) * (label == 0)
                + np.array([0, 0, 95]) * (label == 1)
            )
            Image.fromarray(coarse.astype(np.uint8)).resize((90, 70), Image.Resampling.BICUBIC).save(
                folder / name / f"{i}.png"
            )
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("pushed") / "holiday photographs")


@pytest.fixture(scope="session")
def timm_run(photographs) -> Path:
    """A run of a vision transformer, which is built for one image size, with a temperature."""
    from distcls.cluster.processes import group_closed
    from distcls.inference.classifier import store_temperature
    from distcls.training.loop import train

    folder = photographs.parent / "vit"
    with group_closed():
        train(load_config(None, [*SETTINGS, f'data.root="{photographs}"', f"run.dir={folder}"], []), "vit")
    store_temperature(folder, TEMPERATURE)
    return folder


@pytest.fixture(scope="session")
def pushed(timm_run, tmp_path_factory) -> Path:
    """The model's folder, moved away from its run."""
    assert main(["push", str(timm_run), "--repo", "me/holiday", "--dry-run", "--license", "mit"]) == 0
    return Path(shutil.copytree(timm_run / "hub" / "model", tmp_path_factory.mktemp("elsewhere") / "holiday"))
