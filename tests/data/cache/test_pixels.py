from __future__ import annotations

import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import distcls.data.cache.pixels as pixels_module
import distcls.data.decoding.parallel as parallel
from distcls.config.settings import DataConfig
from distcls.data.cache.mapped_file import MappedFile, received, to_send
from distcls.data.cache.pixels import Decoded, Limits, open_pixels
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.folder import FolderSet, open_folder
from distcls.data.sources.image_set import ArraySet, ImageSet
from distcls.errors import DiskError


def opened(root: Path) -> ImageSet:
    return open_folder(DataConfig(name="folder", root=str(root)))["train"]


def decoded(image_set: ImageSet, cache_dir: Path, limit: int = 10**9, size: int = 8, **options: Any) -> Decoded:
    how = {"is_builder": True, "barrier": lambda: None} | options
    return open_pixels(image_set, Decoding(size), Limits(limit), cache_dir, **how)


@pytest.fixture
def count_decoded() -> tuple[list[int], Callable[[int, int], None]]:
    calls: list[int] = []
    return calls, lambda done, total: calls.append(done)


def test_pixels_are_those_of_the_files(two_classes: Path, tmp_path: Path) -> None:
    image_set = opened(two_classes)
    pixels = decoded(image_set, tmp_path).pixels
    assert pixels is not None and pixels.shape == (30, 8, 8, 3)
    assert all(np.array_equal(pixels[i], image_set.image(i, Decoding(8))) for i in range(30))


def test_a_second_run_decodes_nothing(
    two_classes: Path, tmp_path: Path, count_decoded: tuple[list[int], Callable[[int, int], None]]
) -> None:
    calls, progress = count_decoded
    decoded(opened(two_classes), tmp_path, progress=progress)
    assert calls == [0, 30]
    decoded(opened(two_classes), tmp_path, progress=progress)
    assert calls == [0, 30]
    decoded(opened(two_classes), tmp_path, size=4, progress=progress)
    assert calls == [0, 30, 0, 30]


@pytest.mark.parametrize("damage", ["truncate", "overwrite", "no record", "half a record"])
def test_a_damaged_file_is_built_again(two_classes: Path, tmp_path: Path, damage: str) -> None:
    image_set = opened(two_classes)
    expected = np.array(decoded(image_set, tmp_path).pixels)
    (pixel_file,) = tmp_path.glob("decoded/*/pixels")
    about = pixel_file.parent / "about.json"
    if damage == "truncate":
        os.truncate(pixel_file, 100)
    elif damage == "overwrite":
        pixel_file.write_bytes(b"x" * pixel_file.stat().st_size)
        os.utime(pixel_file, (0, 0))
    elif damage == "no record":
        about.unlink()
    else:
        about.write_text('{"files": 57')
    assert np.array_equal(np.asarray(decoded(image_set, tmp_path).pixels), expected)


def test_a_copied_file_is_believed_by_its_hash(
    two_classes: Path, tmp_path: Path, count_decoded: tuple[list[int], Callable[[int, int], None]]
) -> None:
    decoded(opened(two_classes), tmp_path)
    (pixel_file,) = tmp_path.glob("decoded/*/pixels")
    os.utime(pixel_file, (1, 1))
    decoded(opened(two_classes), tmp_path, progress=count_decoded[1])
    assert count_decoded[0] == []


def test_an_image_changed_in_place_is_decoded_again(two_classes: Path, tmp_path: Path) -> None:
    before = opened(two_classes)
    decoded(before, tmp_path)
    file = two_classes / "cat" / "004.png"
    size = file.stat().st_size
    other = (two_classes / "cat" / "003.png").read_bytes()
    file.write_bytes(other)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    after = opened(two_classes)
    assert len(other) == size and after.fingerprint() == before.fingerprint()
    pixels = decoded(after, tmp_path).pixels
    assert pixels is not None and pixels[4, 0, 0, 0] == 30


@pytest.mark.parametrize("limit", [0, 10**9])
def test_files_that_changed_places_are_decoded_again(two_classes: Path, tmp_path: Path, limit: int) -> None:
    """Of one size and one time of change, as they come out of an archive."""
    for path in two_classes.rglob("*.png"):
        os.utime(path, (7, 7))
    before = opened(two_classes)
    first = decoded(before, tmp_path, limit)
    cat, dog = two_classes / "cat" / "003.png", two_classes / "dog" / "004.png"
    assert cat.stat().st_size == dog.stat().st_size
    cat.rename(tmp_path / "away")
    dog.rename(cat)
    (tmp_path / "away").rename(dog)
    after = opened(two_classes)
    assert after.fingerprint() == before.fingerprint() and after.modified == before.modified
    second = decoded(after, tmp_path, limit)
    assert first.digests is not None and second.digests is not None
    assert np.flatnonzero((first.digests != second.digests).any(1)).tolist() == [3, 14]
    if limit:
        assert first.pixels is not None and second.pixels is not None
        assert (first.pixels[3, 0, 0, 0], second.pixels[3, 0, 0, 0], second.pixels[14, 0, 0, 0]) == (30, 40, 30)


def test_a_copy_of_a_folder_is_hashed_once_and_not_decoded(
    two_classes: Path, tmp_path: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decoded(opened(two_classes), tmp_path)
    copy = opened(Path(shutil.copytree(two_classes, tmp_path / "copy")))  # times of change stay, as with rsync -a
    monkeypatch.setattr(pixels_module, "DecodeJob", None)
    del seen[:]
    for _ in range(2):
        again = decoded(copy, tmp_path)
        assert seen == list(range(30)) and np.array_equal(np.asarray(again.digests), np.asarray(first.digests))


def test_a_copy_whose_bytes_differ_is_decoded(two_classes: Path, tmp_path: Path) -> None:
    decoded(opened(two_classes), tmp_path)
    copy = Path(shutil.copytree(two_classes, tmp_path / "copy"))
    status = (copy / "cat" / "004.png").stat()
    (copy / "cat" / "004.png").write_bytes((copy / "cat" / "003.png").read_bytes())
    os.utime(copy / "cat" / "004.png", ns=(0, status.st_mtime_ns))
    pixels = decoded(opened(copy), tmp_path).pixels
    assert pixels is not None and pixels[4, 0, 0, 0] == 30


def test_bad_images_are_recorded_and_black(two_classes: Path, tmp_path: Path) -> None:
    (two_classes / "dog" / "005.png").write_bytes(b"")
    result = decoded(opened(two_classes), tmp_path)
    assert list(result.bad) == [15] and "an empty file" in result.bad[15]
    assert result.pixels is not None and not result.pixels[15].any()
    assert decoded(opened(two_classes), tmp_path).bad == result.bad


@pytest.mark.parametrize("limit", [0, 10**9])
def test_an_image_that_becomes_readable_again_is_taken_back(two_classes: Path, tmp_path: Path, limit: int) -> None:
    target, link = tmp_path / "late.png", two_classes / "dog" / "005.png"
    link.rename(target.with_suffix(".away"))
    link.symlink_to(target)
    image_set = opened(two_classes)
    assert list(decoded(image_set, tmp_path, limit).bad) == [15]
    target.with_suffix(".away").rename(target)
    assert decoded(image_set, tmp_path, limit).bad == {}


def test_above_the_limit_files_are_checked_once_and_not_kept(
    two_classes: Path, tmp_path: Path, count_decoded: tuple[list[int], Callable[[int, int], None]]
) -> None:
    (two_classes / "dog" / "005.png").write_bytes(b"")
    for _ in range(2):
        result = decoded(opened(two_classes), tmp_path, limit=100, progress=count_decoded[1])
        assert result.pixels is None and list(result.bad) == [15]
    assert count_decoded[0] == [0, 30]
    assert not list(tmp_path.glob("decoded/*/pixels"))


def test_only_the_builder_decodes_and_the_others_wait_for_it(two_classes: Path, tmp_path: Path) -> None:
    image_set = opened(two_classes)
    waited = []

    def barrier() -> None:
        waited.append(decoded(image_set, tmp_path))

    result = decoded(image_set, tmp_path, is_builder=False, barrier=barrier)
    assert len(waited) == 1 and np.array_equal(np.asarray(result.pixels), np.asarray(waited[0].pixels))


def test_writing_to_the_pixels_does_not_reach_the_file(two_classes: Path, tmp_path: Path) -> None:
    first = decoded(opened(two_classes), tmp_path).pixels
    assert first is not None
    first[:] = 99
    second = decoded(opened(two_classes), tmp_path).pixels
    assert second is not None and second[0].max() == 0


def test_a_folder_that_cannot_be_written_says_what_to_do(two_classes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"data\.cache_dir=DIR"):
        decoded(opened(two_classes), tmp_path / "file")


def test_no_temporary_files_stay(two_classes: Path, tmp_path: Path) -> None:
    decoded(opened(two_classes), tmp_path)
    (entry,) = (tmp_path / "decoded").iterdir()
    assert {path.name for path in entry.iterdir()} == {"about.json", "digests", "pixels"}


def test_an_array_of_the_right_size_is_used_as_it_is(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    array_set = ArraySet("four", ["a", "b"], np.array([0, 1, 0, 1]), images)
    assert decoded(array_set, tmp_path).pixels is images
    assert decoded(array_set, tmp_path, size=16).pixels is not None
    assert decoded(array_set, tmp_path, limit=0).pixels is None


def test_a_mapped_array_travels_by_its_path(two_classes: Path, tmp_path: Path) -> None:
    pixels = decoded(opened(two_classes), tmp_path, size=64).pixels
    assert pixels is not None
    array_set = ArraySet("mapped", ["a"], np.zeros(30, np.int64), pixels)
    message = pickle.dumps(array_set)
    assert len(message) < 2000
    assert np.array_equal(pickle.loads(message).images, pixels)


def test_parts_of_a_mapped_array_arrive_as_they_were_sent(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
    np.save(tmp_path / "rows.npy", whole)
    np.save(tmp_path / "columns.npy", np.asfortranarray(whole))
    rows, columns = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("rows", "columns"))
    for part in (
        rows,
        rows[6:],
        rows[2:][3:5],
        rows[::2],
        rows[:, 1:3],
        rows.transpose(0, 3, 1, 2),
        columns,
        columns[4:],
    ):
        assert np.array_equal(received(pickle.loads(pickle.dumps(to_send(part)))), part)
    assert isinstance(to_send(rows[6:]), MappedFile)


def test_images_of_channels_first_are_brought_into_the_order_that_batches_are_taken_from(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 5), np.uint8).transpose(0, 2, 3, 1)
    array_set = ArraySet("mine", ["a", "b"], np.array([0, 1]), images)
    pixels = decoded(array_set, tmp_path, size=5).pixels
    assert pixels is not None and pixels.flags.c_contiguous and np.array_equal(pixels, images)


class WrongShape:
    """A data set as its author wrote it, with a mistake."""

    class_names = ("a", "b")
    labels = np.array([0, 1])

    def __len__(self) -> int:
        return 2

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        return np.zeros((*decoding.shape[:2], 1 if i else 3), np.uint8)

    def fingerprint(self) -> str:
        return "wrong"


def test_images_of_a_wrong_shape_are_bad_instead_of_broadcast(tmp_path: Path) -> None:
    bad = decoded(WrongShape(), tmp_path).bad  # type: ignore[arg-type]
    assert list(bad) == [1] and "(8, 8, 1)" in bad[1]


# Builds that do not come to their end --------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images that are read to be decoded or hashed, by index."""
    indices: list[int] = []
    content = FolderSet.content

    def noted(self: FolderSet, i: int) -> bytes:
        indices.append(i)
        return content(self, i)

    monkeypatch.setattr(FolderSet, "content", noted)
    return indices


@pytest.fixture
def killed_build(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Builds in chunks of 4 images, in a process that is killed when it has decoded 12 of 30."""
    monkeypatch.setattr(parallel, "MAX_CHUNK_IMAGES", 4)
    (two_classes / "cat" / "005.png").write_bytes(b"")

    def build(limit: int) -> None:
        pid = os.fork()
        if pid == 0:
            decoded(
                opened(two_classes), tmp_path, limit, progress=lambda done, _: done == 12 and os.kill(os.getpid(), 9)
            )
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL

    return build


@pytest.mark.parametrize("limit", [0, 10**9])
def test_a_build_that_was_killed_goes_on_where_it_was(
    two_classes: Path, tmp_path: Path, killed_build: Callable[[int], None], seen: list[int], limit: int
) -> None:
    killed_build(limit)
    result = decoded(opened(two_classes), tmp_path, limit)
    assert seen == list(range(12, 30)) and list(result.bad) == [5]
    if limit:
        assert np.array_equal(
            np.asarray(result.pixels), np.asarray(decoded(opened(two_classes), tmp_path / "new").pixels)
        )
    assert not list(tmp_path.glob("decoded/*.partial"))


def test_what_did_not_come_to_the_disk_is_decoded_again(
    two_classes: Path, tmp_path: Path, killed_build: Callable[[int], None], seen: list[int]
) -> None:
    """As after a power cut: the pixels of images 4 to 7 are lost, and so is the end of the journal."""
    killed_build(10**9)
    (partial,), (journal,) = tmp_path.glob("decoded/*.partial/pixels"), tmp_path.glob("decoded/*.partial/journal")
    with partial.open("r+b") as file:
        file.seek(6 * 8 * 8 * 3)
        file.write(b"torn")
    journal.write_text(journal.read_text()[:-20])
    result = decoded(opened(two_classes), tmp_path)
    assert seen == [4, 5, 6, 7, *range(8, 30)]
    assert np.array_equal(np.asarray(result.pixels), np.asarray(decoded(opened(two_classes), tmp_path / "new").pixels))


def test_files_that_changed_places_since_the_kill_are_decoded_again(
    two_classes: Path, tmp_path: Path, killed_build: Callable[[int], None], seen: list[int]
) -> None:
    for path in two_classes.rglob("*.png"):
        os.utime(path, (7, 7))
    killed_build(10**9)
    os.utime(two_classes / "cat" / "005.png", (7, 7))
    first, second = two_classes / "cat" / "001.png", two_classes / "cat" / "009.png"
    first.rename(tmp_path / "away")
    second.rename(first)
    (tmp_path / "away").rename(second)
    pixels = decoded(opened(two_classes), tmp_path).pixels
    assert pixels is not None and [pixels[i, 0, 0, 0] for i in (1, 2, 9)] == [90, 20, 10]
    assert {0, 1, 2, 3} <= set(seen)


def test_two_runs_that_build_at_once_do_not_disturb_each_other(two_classes: Path, tmp_path: Path) -> None:
    others = []

    def build_another(done: int, total: int) -> None:
        if not others:
            others.append(None)
            others[0] = decoded(opened(two_classes), tmp_path)

    result = decoded(opened(two_classes), tmp_path, progress=build_another)
    assert np.array_equal(np.asarray(result.pixels), np.asarray(others[0].pixels))
    (entry,) = (tmp_path / "decoded").iterdir()
    assert {path.name for path in entry.iterdir()} == {"about.json", "digests", "pixels"}


def test_too_little_space_is_said_before_anything_is_decoded(
    two_classes: Path, tmp_path: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskError, match=r"need another 0\.37 GB .*data\.cache_dir=DIR"):
        decoded(opened(two_classes), tmp_path, size=2032)
    assert seen == []


def test_above_the_limit_of_memory_pixels_are_kept_on_disk(two_classes: Path, tmp_path: Path) -> None:
    image_set, whole = opened(two_classes), 30 * 8 * 8 * 3
    how = {"is_builder": True, "barrier": lambda: None}
    on_disk = open_pixels(image_set, Decoding(8), Limits(whole - 1, whole), tmp_path, **how)
    in_memory = open_pixels(image_set, Decoding(8), Limits(whole), tmp_path, **how)
    assert not on_disk.in_memory and in_memory.in_memory
    assert on_disk.pixels is not None and on_disk.pixels.filename == in_memory.pixels.filename
    assert open_pixels(image_set, Decoding(8), Limits(whole - 1, whole - 1), tmp_path, **how).pixels is None
