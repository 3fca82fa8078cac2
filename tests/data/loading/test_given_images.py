"""Images that belong to no data set arrive in order, the unreadable ones apart, and are not all taken at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distcls.data.decoding.decode import Decoding
from distcls.data.loading.given_images import load_given

CPU = torch.device("cpu")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Eleven files: the n-th has pixels n, but 2 and 5 are broken."""
    for i in range(11):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"{i:02}.png")
    for i in (2, 5):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    return [str(tmp_path / f"{i:02}.png") for i in range(11)]


@pytest.mark.parametrize("workers", [0, 2])
def test_in_order_and_without_the_bad_ones(files: list[str], workers: int) -> None:
    batches = list(load_given(iter(files), Decoding(4), 3, CPU, workers))
    assert [batch.images for batch in batches] == [files[i : i + 3] for i in range(0, 11, 3)]
    assert [batch.bad for batch in batches] == [{2: "an empty file"}, {2: "an empty file"}, {}, {}]
    assert [batch.pixels[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [3, 4], [6, 7, 8], [9, 10]]
    assert [batch.good for batch in batches] == [
        [files[i] for i in some] for some in ([0, 1], [3, 4], [6, 7, 8], [9, 10])
    ]


def test_a_long_list_is_taken_as_it_is_used(files: list[str]) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield files[0]

    batches = load_given(endless(), Decoding(4), 3, CPU, workers=0)
    for _ in range(5):
        next(batches)
    assert 15 <= taken <= 18


def test_arrays_stay_as_they_were_given() -> None:
    """Those that may not be written to, and those turned from BGR to RGB, too."""
    frozen, turned = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)[:, :, ::-1]
    frozen.flags.writeable = False
    with warnings.catch_warnings(action="error"):
        (batch,) = load_given([frozen, turned], Decoding(4), 3, CPU, 0)
    assert batch.images[0] is frozen and batch.images[1] is turned and not batch.bad


def test_a_batch_may_have_no_good_image(files: list[str]) -> None:
    (batch,) = load_given([files[2], files[5]], Decoding(4), 3, CPU, 0)
    assert batch.pixels.shape == (0, 4, 4, 3) and set(batch.bad) == {0, 1}
