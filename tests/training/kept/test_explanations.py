"""A network that cannot be explained does not fail its run: the report says what it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from distcls.config.settings import Config, ModelConfig
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Split
from distcls.inference.classifier import Classifier
from distcls.runs.results import Pictures, load_pictures
from distcls.training.kept.explanations import explain


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not today\nnor tomorrow")


def explained(folder: Path, network: nn.Module) -> dict[str, Any]:
    """What explain writes of a network on two images, of which the sample shows the second."""
    images, labels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8), np.array([0, 1])
    split = Split("test", ArraySet("made", ["a", "b"], labels, images), labels, labels, images, Decoding(8))
    config = Config(model=ModelConfig(name="mine:make"))
    written = SimpleNamespace(
        dir=folder, config=config, write_json=lambda name, value: (folder / name).write_text(json.dumps(value))
    )
    data = SimpleNamespace(train=split, val=None, test=split, class_names=["a", "b"], decoding=Decoding(8))
    measured = {"test": SimpleNamespace(preds=np.array([1, 1]))}
    shown = {"predictions": Pictures([images[1]], places=[1])}
    explain(written, Classifier(network, config, ["a", "b"], Decoding(8)), data, measured, shown)  # type: ignore[arg-type]
    return json.loads((folder / "explained.json").read_text())


def test_a_network_with_maps_is_explained(tmp_path: Path) -> None:
    conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    found = explained(tmp_path, conv)
    assert found["left_out"] == {} and found["model"]["parameters"] == 112 + 514
    pictures = load_pictures(tmp_path)
    assert [*pictures] == ["predictions", "gradcam", "filters", "feature_maps"]
    assert pictures["gradcam"].places == [1] and len(pictures["filters"].pixels) == 4
    assert pictures["feature_maps"].captions[0] == "the image"


def test_one_without_maps_has_no_grad_cam(tmp_path: Path) -> None:
    found = explained(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    assert [*found["left_out"]] == ["gradcam"] and "laid out like the image" in found["left_out"]["gradcam"]
    assert found["model"]["parameters"] == 386 and [*load_pictures(tmp_path)] == ["predictions"]


def test_one_that_fails_has_neither_but_its_pictures_are_kept(tmp_path: Path) -> None:
    found = explained(tmp_path, Broken())
    assert [*found["left_out"]] == ["gradcam", "layers", "model"] and found["left_out"]["gradcam"] == "not today"
    assert found["model"] == {} and [*load_pictures(tmp_path)] == ["predictions"]
