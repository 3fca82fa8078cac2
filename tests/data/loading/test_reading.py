"""Images are the same from memory, through threads and through processes; one that cannot be read is retried."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch

from distcls.data.decoding.decode import BadImageError, Decoding
from distcls.data.loading import reading
from distcls.data.loading.reading import Request, is_in_memory, load_images, resident_bytes
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Split

CPU, META, CUDA = torch.device("cpu"), torch.device("meta"), torch.device("cuda", 0)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(reading, "SECONDS_BEFORE_RETRY", 0)


class Stumbling(ArraySet):
    """Some images cannot be read the first time, and some never."""

    stumbles: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        tried = self.__dict__.setdefault("tried", set())
        if i in self.gone or (i in self.stumbles and i not in tried):
            tried.add(i)
            raise BadImageError("truncated") if i % 2 else OSError("Stale file handle")
        return super().image(i, decoding)


def make_split(decoded: bool, in_memory: bool = True, kind: type[ArraySet] = ArraySet) -> Split:
    """20 images, of which the split has 12."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    image_set = kind("made", ["a", "b", "c"], draw.integers(0, 3, 20), images)
    rows = draw.permutation(20)[:12]
    labels = image_set.labels[rows]
    return Split("train", image_set, rows, labels, images if decoded else None, Decoding(4), in_memory)


def requests() -> list[Request]:
    """Two batches of six, the second short of two, with an image that comes twice."""
    order = np.array([3, 0, 11, 7, 3, 5, 9, 1, 2, 10])
    return [Request(order[:6], np.arange(6)), Request(order[6:], np.arange(6, 10))]


def collect(split: Split, workers: int, size: int = 4) -> list[tuple[Any, ...]]:
    loaded = load_images(split, iter(requests()), size, CPU, workers)
    return [
        ((images.pixels if images.rows is None else images.pixels[images.rows]).tolist(), images.labels.tolist())
        for images in loaded
    ]


WAYS = {
    "from memory": (True, True, 2),
    "decoded on disk, by threads": (True, False, 2),
    "decoded on disk, by one thread": (True, False, 1),
    "decoded on disk, by this process": (True, False, 0),
    "from files, by processes": (False, True, 2),
    "from files, by this process": (False, True, 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_reading_gives_the_same_pixels(way):
    decoded, in_memory, workers = WAYS[way]
    split = make_split(decoded, in_memory)
    found = collect(split, workers)
    assert [len(labels) for _, labels in found] == [4, 2, 4]
    indices = np.concatenate([request.indices for request in requests()])
    assert [image for pixels, _ in found for image in pixels] == [split.image(i).tolist() for i in indices]
    assert [label for _, labels in found for label in labels] == split.labels[indices].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_stumbles_once_is_read_and_one_that_is_gone_is_black_and_named(workers):
    good, split = make_split(False), make_split(False, kind=Stumbling)
    three, seven = (int(split.rows[i]) for i in (3, 7))
    split.image_set.stumbles = tuple(range(20))
    split.image_set.gone = (seven,)
    expected = list(load_images(good, iter(requests()), 6, CPU, 0))
    first, second = load_images(split, iter(requests()), 6, CPU, workers)
    assert list(first.went_bad) == [3] and first.went_bad[3].startswith(f"made/{seven}: ")
    assert not first.pixels[3].any() and three != seven
    rest = [0, 1, 2, 4, 5]
    assert torch.equal(first.pixels[rest], expected[0].pixels[rest]) and torch.equal(first.labels, expected[0].labels)
    assert second.went_bad == {} and torch.equal(second.pixels, expected[1].pixels)


# What stays on the device ---------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "stays"), [(4 * 960, True), (4 * 960 - 1, False)])
def test_decoded_images_stay_on_a_gpu_where_they_leave_it_room(free, stays, monkeypatch):
    """They take 20 × 4 × 4 × 3 = 960 bytes."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**9))
    assert is_in_memory(make_split(True), CUDA) is stays
    assert not is_in_memory(make_split(True, in_memory=False), CUDA)


def test_images_that_are_there_already_stay(monkeypatch):
    """They are themselves a part of what is no longer free."""
    split = make_split(True)
    monkeypatch.setitem(reading._copies, (id(split.pixels), CUDA), torch.empty(0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 10**9))
    assert is_in_memory(split, CUDA)


def test_a_copy_on_a_device_lasts_as_long_as_the_images_it_is_of():
    """Else the next data set, at the same place in memory, would be taken for it."""
    before, split = resident_bytes(META), make_split(True)
    assert reading._resident(split, META) is reading._resident(split, META)
    assert resident_bytes(META) == before + 960
    del split
    gc.collect()
    assert resident_bytes(META) == before
