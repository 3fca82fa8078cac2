"""Pictures lie where their images do, inside the folder for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcls.inference.answers.heat_maps import picture_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.png", "a.png.png"),
        ("./photos/a.jpg", "photos/a.jpg.png"),
        ("../../photos/a.jpg", "photos/a.jpg.png"),
        ("/data/photos/a.jpg", "data/photos/a.jpg.png"),
        ("photos/../../../a.jpg", "a.jpg.png"),
    ],
)
def test_a_picture_lies_where_its_image_does(path: str, name: str) -> None:
    assert picture_name(path) == Path(name)
