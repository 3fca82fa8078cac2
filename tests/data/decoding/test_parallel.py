"""Decoding in processes gives what decoding in one gives, and whatever happens to them is resumed or explained."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcls.config.settings import DataConfig
from distcls.data.cache.pixels import Decoded, Limits, open_pixels
from distcls.data.decoding import parallel
from distcls.data.decoding.decode import Decoding
from distcls.data.decoding.parallel import DecodeJob, HashJob, cut_chunks, do_all
from distcls.data.sources.folder import FolderSet, open_folder
from distcls.data.sources.image_set import ImageSet, content_digest
from distcls.errors import DiskError, OutOfMemoryError


def opened(root: Path) -> FolderSet:
    (image_set,) = open_folder(DataConfig(name="folder", root=str(root))).values()
    assert isinstance(image_set, FolderSet)
    return image_set


def decoded(image_set: ImageSet, cache_dir: Path, **options: Any) -> Decoded:
    how = {"is_builder": True, "barrier": lambda: None} | options
    return open_pixels(image_set, Decoding(8), Limits(10**9), cache_dir, **how)


@pytest.fixture(scope="module")
def many_images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., None]) -> Path:
    """Enough images for decoding in processes: hard links, two of them broken."""
    root = tmp_path_factory.mktemp("many")
    make_images(root / "source" / "a", 20, suffix=".bmp")
    for i in range(parallel.MIN_IMAGES + 100):
        folder = root / "images" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(root / "source" / "a" / f"{i % 20:03}.bmp", folder / f"{i:05}.bmp")
    for broken in ("class0/00100.bmp", "class1/02099.bmp"):
        (root / "images" / broken).unlink()
        (root / "images" / broken).write_bytes(b"broken")
    return root / "images"


def child_processes() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists its processes under /proc")
def test_decoding_in_processes_gives_the_same_and_survives_signals(
    many_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_set, signalled, done, before = opened(many_images), set(), [], child_processes()

    def progress(count: int, total: int) -> None:
        done.append(count)
        for pid in child_processes() - before:
            signalled.add(pid)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                os.kill(pid, number)

    in_processes = decoded(image_set, tmp_path / "parallel", progress=progress)
    assert signalled and not signalled & set(child_processes())
    assert done[-1] == len(image_set) and done == sorted(done)
    monkeypatch.setattr(parallel, "MIN_IMAGES", 10**9)
    here = decoded(image_set, tmp_path / "here")
    assert in_processes.bad == here.bad and len(here.bad) == 2
    assert np.array_equal(np.asarray(in_processes.pixels), np.asarray(here.pixels))
    assert np.array_equal(np.asarray(in_processes.digests), np.asarray(here.digests))


def test_a_decoding_process_that_dies_is_an_error_not_a_hang(many_images: Path, tmp_path: Path) -> None:
    before = child_processes()

    def kill_one(done: int, total: int) -> None:
        for pid in child_processes() - before:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(OutOfMemoryError, match="a process that decodes images was killed"):
        decoded(opened(many_images), tmp_path, progress=kill_one)
    assert [path.suffix for path in (tmp_path / "decoded").iterdir()] == [".partial"]


def test_a_build_whose_decoding_process_died_is_resumed(
    many_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_set, before, counts = opened(many_images), child_processes(), []

    def kill_all(done: int, total: int) -> None:
        counts.append(done)
        for pid in child_processes() - before:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(OutOfMemoryError, match="a process that decodes images was killed"):
        decoded(image_set, tmp_path, progress=kill_all)
    resumed: list[int] = []
    result = decoded(image_set, tmp_path, progress=lambda done, total: resumed.append(done))
    num_chunks = len(cut_chunks(DecodeJob(image_set, Decoding(8), None)))
    assert 0 < counts[-1] == resumed[0] and len(counts[1:]) + len(resumed[1:]) == num_chunks
    monkeypatch.setattr(parallel, "MIN_IMAGES", 10**9)
    assert np.array_equal(np.asarray(result.pixels), np.asarray(decoded(image_set, tmp_path / "here").pixels))


def test_a_disk_that_fills_up_in_a_decoding_process_is_a_disk_error(many_images: Path) -> None:
    """RLIMIT_FSIZE would end Python's own files too; /dev/full is a disk without room."""
    job = DecodeJob(opened(many_images), Decoding(8), Path("/dev/full"))
    with pytest.raises(OSError) as error:
        list(do_all(job))
    assert error.value.errno == errno.ENOSPC


def test_a_full_disk_names_the_way_out(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: DecodeJob, start: int, stop: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DecodeJob, "do_chunk", full)
    with pytest.raises(DiskError, match=r"No space left on device.*data\.cache_dir=DIR"):
        decoded(opened(two_classes), tmp_path)


def test_files_are_hashed_without_decoding_them(two_classes: Path) -> None:
    (two_classes / "cat" / "003.png").write_bytes(b"no image")
    (two_classes / "cat" / "004.png").unlink()
    image_set = opened(two_classes)
    digests = dict(do_all(HashJob(image_set, Decoding(8))))
    expected = [content_digest(image_set.content(i)) for i in range(len(image_set))]
    assert digests == {0: b"".join(expected)} and content_digest(b"no image") in expected


def test_chunks_cover_all_images_once(many_images: Path) -> None:
    image_set = opened(many_images)
    for size in (8, 2000, 5000):
        chunks = cut_chunks(DecodeJob(image_set, Decoding(size), None))
        assert [i for start, stop in chunks for i in range(start, stop)] == list(range(len(image_set)))
        assert max(stop - start for start, stop in chunks) <= max(1, 16_000_000 // (size * size * 3))


def test_a_script_without_a_main_guard_can_decode_in_processes(many_images: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from distcls.config.settings import DataConfig\n"
        "from distcls.data.decoding.decode import Decoding\n"
        "from distcls.data.sources.folder import open_folder\n"
        "from distcls.data.cache.pixels import Limits, open_pixels\n"
        f"images = open_folder(DataConfig(name='folder', root={str(many_images)!r}))['train']\n"
        "how = {'is_builder': True, 'barrier': lambda: None}\n"
        "result = open_pixels(images, Decoding(8), Limits(10**9), Path('cache'), **how)\n"
        "print(len(result.bad))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout == "2\n", run.stderr
