"""Files and folders are replaced whole, and names of files that are not UTF-8 neither stop a run nor get lost."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from distcls.files.atomic import (
    json_text,
    printable,
    put_in_place,
    rename_unless_there,
    replacing,
    write_bytes,
    write_json,
    write_text,
)

NAME = os.fsdecode(b"caf\xe9.jpg")


def test_a_text_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("first", "second\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_of_the_longest_name_is_replaced(tmp_path: Path) -> None:
    write_json(tmp_path / ("n" * 255), ["猫"])
    assert json.loads((tmp_path / ("n" * 255)).read_text()) == ["猫"]


@pytest.mark.parametrize("durable", [True, False])
def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    with replacing(path, durable) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_writer_that_fails_changes_nothing(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bytes(tmp_path / "a", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_device_or_a_pipe_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    write_text(tmp_path / "null", "text")
    assert (tmp_path / "null").is_char_device() and (tmp_path / "null").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    with (tmp_path / "file").open("wb") as file:
        write_text(Path(f"/dev/fd/{file.fileno()}"), "text")
    assert (tmp_path / "file").read_bytes() == b"text"
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "text")


@pytest.mark.parametrize(("durable", "expected"), [(True, ["file", "replace", "folder"]), (False, ["replace"])])
def test_what_is_durable_is_on_the_disk_before_and_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, expected: list[str]
) -> None:
    calls: list[str] = []
    replace: Callable[..., Path] = Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("folder" if os.path.isdir(f"/dev/fd/{fd}") else "file"))
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append("replace"), replace(path, to))[1])
    write_bytes(tmp_path / "a", b"new", durable)
    assert calls == expected


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/dev/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def make_folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    final = make_folder(tmp_path / "[final]", "old")
    put_in_place(make_folder(tmp_path / "new", "new"), final)
    assert (final / "file").read_text() == "new" and list(tmp_path.iterdir()) == [final]


def test_a_folder_that_cannot_be_moved_leaves_the_older_one(tmp_path: Path) -> None:
    final = make_folder(tmp_path / "final", "old")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "nothing", final)
    assert (final / "file").read_text() == "old" and list(tmp_path.iterdir()) == [final]


def test_the_faster_of_two_processes_keeps_its_folder(tmp_path: Path) -> None:
    rename_unless_there(make_folder(tmp_path / "mine", "first"), tmp_path / "final")
    rename_unless_there(make_folder(tmp_path / "theirs", "second"), tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "first"
    with pytest.raises(OSError, match="No such file"):
        rename_unless_there(tmp_path / "nothing", tmp_path / "nowhere")


def test_a_name_is_written_as_it_is_on_the_disk(tmp_path: Path) -> None:
    write_text(tmp_path / "names.txt", NAME)
    assert (tmp_path / "names.txt").read_bytes() == b"caf\xe9.jpg"


def test_json_holds_any_name_and_leaves_others_readable() -> None:
    text = json_text([NAME, "猫"])
    assert json.loads(text.encode().decode()) == [NAME, "猫"] and "猫" in text


def test_what_is_shown_can_be_printed() -> None:
    assert printable(NAME) == "caf?.jpg" and printable("猫") == "猫"
