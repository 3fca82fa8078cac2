"""Folders appear whole, and what is torn or altered in one is found before anything is read from it."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from distcls.errors import DiskError
from distcls.files import verified
from distcls.files.verified import (
    CorruptError,
    json_writer,
    read_json,
    read_tensors,
    tensor_writer,
    text_writer,
    verify_folder,
    write_folder,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(verified, "SECONDS_BEFORE_RETRY", 0.0)
    write_folder(tmp_path / "step", {"text.txt": text_writer("of this run"), "numbers.json": json_writer([1, 2])})
    return tmp_path / "step"


def test_a_folder_is_read_as_it_was_written(folder: Path) -> None:
    verify_folder(folder)
    assert (folder / "text.txt").read_text() == "of this run" and read_json(folder / "numbers.json") == [1, 2]
    assert [path.name for path in folder.parent.iterdir()] == ["step"]


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shorten, "has 10 bytes instead of 11"),
        (flip_a_bit, "does not have the contents that were written"),
        (os.unlink, "No such file"),
    ],
)
def test_a_torn_or_altered_file_is_found(folder: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(folder / "text.txt")
    with pytest.raises(CorruptError, match=reason):
        verify_folder(folder)


@pytest.mark.parametrize("manifest", ["", "[]", '{"text.txt": 3}', '{"text.txt": {"size": 11}}', '{"a": '])
def test_a_damaged_manifest_is_found(folder: Path, manifest: str) -> None:
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(CorruptError):
        verify_folder(folder)


def test_a_folder_that_may_not_be_read_is_not_called_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DiskError, match="Nothing was changed"):
        verify_folder(folder)


def test_a_block_that_the_disk_has_lost_is_damage_that_may_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [OSError(errno.EIO, "Input/output error")]
    real = Path.open

    def stumbling(self: Path, *arguments: Any, **options: Any) -> Any:
        if errors and self.name == "text.txt":
            raise errors.pop()
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", stumbling)
    verify_folder(folder)  # the second attempt reads it
    errors += [OSError(errno.EIO, "Input/output error")] * 2
    with pytest.raises(CorruptError) as reason:
        verify_folder(folder)
    assert reason.value.is_unreadable


@pytest.mark.parametrize("what", ["full disk", "writer"])
def test_what_cannot_be_written_leaves_the_older_folder(folder: Path, what: str) -> None:
    def fails(file: BinaryIO) -> None:
        if what == "writer":
            raise RuntimeError("a stream refused it")
        file.write(b"x" * 10_000)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DiskError, match="step could not be written: .*(too large|refused)"):
            write_folder(folder, {"text.txt": fails})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    verify_folder(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["step"]


def test_what_a_killed_writer_left_is_replaced(folder: Path) -> None:
    left = folder.parent / ".writing-step"
    left.mkdir()
    (left / "half").write_text("hal")
    write_folder(folder, {"text.txt": text_writer("new")})
    verify_folder(folder)
    assert (folder / "text.txt").read_text() == "new" and not left.exists() and not (folder / "half").exists()


def test_progress_is_reported_while_a_large_file_comes_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "CHUNK", 100)
    reports: list[None] = []
    write_folder(tmp_path / "a", {"large": text_writer("x" * 1050)}, lambda: reports.append(None))
    verify_folder(tmp_path / "a")
    assert len(reports) >= 10 and json.loads((tmp_path / "a" / "manifest.json").read_text())["large"]["size"] == 1050


def test_tensors_keep_values_and_tied_names(tmp_path: Path) -> None:
    weight, empty = torch.arange(6.0).reshape(2, 3), torch.empty(0, 3)
    tensors = {"a": weight, "tied": weight, "b": weight.t(), "none": empty, "none2": empty}
    write_folder(tmp_path / "a", {"t": tensor_writer(tensors)})
    read = read_tensors(tmp_path / "a" / "t")
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert read["tied"] is read["a"] and read["b"] is not read["a"]
