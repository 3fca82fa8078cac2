"""Pictures lie where their images do, inside the folder for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distcls.inference.answers import heat_maps
from distcls.inference.answers.heat_maps import HeatMaps, picture_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.png", "a.png.png"),
        ("./photos/a.jpg", "photos/a.jpg.png"),
        ("../../photos/a.jpg", "photos/a.jpg.png"),
        ("/data/photos/a.jpg", "data/photos/a.jpg.png"),
        ("//data/photos/a.jpg", "data/photos/a.jpg.png"),
        ("photos/../../../a.jpg", "a.jpg.png"),
    ],
)
def test_a_picture_lies_where_its_image_does(path: str, name: str) -> None:
    assert picture_name(path) == Path(name)


def test_pictures_of_several_images_of_one_name_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    monkeypatch.setattr(heat_maps, "gradcam_layer", lambda classifier: None)
    monkeypatch.setattr(heat_maps, "grad_cam", lambda *_: None)
    monkeypatch.setattr(heat_maps, "overlay", lambda pixels, heats: pixels)
    maps = HeatMaps(None, tmp_path)  # type: ignore[arg-type]
    batch: Any = SimpleNamespace(pixels=torch.from_numpy(images), good=["p/a.jpg", "../p/a.jpg", "/p/a.jpg"])
    found: Any = [SimpleNamespace(probs=np.ones(2))] * 3
    maps.write(batch, found)
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == ["a.jpg-2.png", "a.jpg-3.png", "a.jpg.png"]
