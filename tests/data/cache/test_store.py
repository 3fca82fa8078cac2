"""Entries of the store appear whole, are checked when they are found, and go when nobody needs them."""

from __future__ import annotations

import multiprocessing
import os
import time
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from ranks import SERVER

from distcls.data.cache import store
from distcls.data.cache.journal import Chunk, Journal
from distcls.data.cache.store import About, Parts, build_entry, entry_path, read_entry, remove_unused

DAY = 86_400
CONTENT = b"first part, second part"


def write(journal: Journal) -> tuple[Parts, About]:
    (journal.folder / "pixels").write_bytes(CONTENT)
    return {"pixels": [(10, zlib.crc32(CONTENT[:10])), (13, zlib.crc32(CONTENT[10:]))]}, {"bad": {}}


def build(path: Path, write: Callable[[Journal], tuple[Parts, About]] = write) -> None:
    build_entry(path, write, lambda: read_entry(path) is not None)


def names(cache_dir: Path) -> set[str]:
    return {path.name for path in (cache_dir / "decoded").iterdir()}


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    path = entry_path(tmp_path, "key")
    build(path)
    return path


def test_an_entry_says_what_its_writer_found(entry: Path, tmp_path: Path) -> None:
    about = read_entry(entry)
    assert about is not None and about["bad"] == {} and (entry / "pixels").read_bytes() == CONTENT
    assert names(tmp_path) == {"distcls-key"} and read_entry(tmp_path / "nowhere") is None


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (1, 1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: os.truncate(entry / "pixels", 5),
        lambda entry: overwrite(entry / "pixels", CONTENT.replace(b"second", b"secone")),
        lambda entry: (entry / "pixels").unlink(),
        lambda entry: (entry / "about.json").unlink(),
        lambda entry: (entry / "about.json").write_text('{"files": {'),
        lambda entry: (entry / "about.json").write_text("[]"),
        lambda entry: (entry / "about.json").write_text('{"files": {"pixels": null}}'),
    ],
    ids=["cut", "altered", "gone", "no record", "half a record", "a list", "null"],
)
def test_a_damaged_entry_is_none_and_is_built_again(entry: Path, damage: Callable[[Path], object]) -> None:
    damage(entry)
    assert read_entry(entry) is None
    build(entry)
    assert read_entry(entry) is not None and (entry / "pixels").read_bytes() == CONTENT


def test_a_copied_file_is_read_once_and_believed_by_its_checksum(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    has_parts = store.has_parts
    monkeypatch.setattr(store, "has_parts", lambda path, parts: (read.append(path), has_parts(path, parts))[1])
    overwrite(entry / "pixels", CONTENT)
    assert read_entry(entry) is not None and read == [entry / "pixels"]
    assert read_entry(entry) is not None and read == [entry / "pixels"]


def test_an_entry_that_is_there_stays_as_it_may_be_mapped(entry: Path) -> None:
    before = (entry / "pixels").stat().st_ino
    build(entry)
    assert (entry / "pixels").stat().st_ino == before


def test_a_builder_that_fails_leaves_what_it_had_for_the_next(tmp_path: Path) -> None:
    chunk = Chunk(0, 4, {2: "why"}, 0, 77, "00", "stamp")

    def fail(journal: Journal) -> tuple[Parts, About]:
        journal.add(chunk)
        raise KeyboardInterrupt

    found: list[Chunk] = []

    def resume(journal: Journal) -> tuple[Parts, About]:
        found.extend(journal.chunks())
        return write(journal)

    path = entry_path(tmp_path, "key")
    with pytest.raises(KeyboardInterrupt):
        build(path, fail)
    build(path, resume)
    assert found == [chunk] and names(tmp_path) == {"distcls-key"}


def test_lines_of_the_journal_that_a_kill_cut_or_another_version_wrote_are_left_out(tmp_path: Path) -> None:
    lines = '{"start": 0, "stop": 4}\n[]\n{"start": 1, "stop": 2, "bad": [], "num_animations": 0, "checksum": 1, '
    (tmp_path / "journal").write_text(lines)
    with (tmp_path / "journal").open("a+") as file:
        journal = Journal(file)
        assert journal.chunks() == []
        journal.add(Chunk(4, 8, {}, 0, 1, "", ""))
        assert [chunk.start for chunk in journal.chunks()] == [4]


def test_two_builders_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = entry_path(tmp_path, "key")

    def build_another_meanwhile(journal: Journal) -> tuple[Parts, About]:
        build(path)
        assert journal.folder.exists()
        return write(journal)

    build(path, build_another_meanwhile)
    assert read_entry(path) is not None and names(tmp_path) == {"distcls-key"}


# Removing ------------------------------------------------------------------------------------------


def make_older(path: Path, days: float) -> None:
    for file in (*path.iterdir(), path) if path.is_dir() else (path,):
        os.utime(file, (time.time() - days * DAY,) * 2)


def test_what_nobody_used_for_a_month_is_removed(tmp_path: Path) -> None:
    for key in ("old", "used"):
        build(entry_path(tmp_path, key))
        make_older(entry_path(tmp_path, key), 31)
    for name in ("my own file", "distcls-of an older version.pixels"):
        (tmp_path / "decoded" / name).touch()
        make_older(tmp_path / "decoded" / name, 31)
    assert read_entry(entry_path(tmp_path, "used")) is not None
    remove_unused(tmp_path / "decoded")
    assert names(tmp_path) == {"distcls-used", "my own file"}


def build_for_ever(path: Path, connection: Connection) -> None:
    def wait(journal: Journal) -> tuple[Parts, About]:
        connection.send("begun")
        time.sleep(600)
        return {}, {}

    build(path, wait)


@pytest.mark.parametrize("is_short_of_space", [False, True])
def test_what_a_killed_builder_left_is_removed_when_nobody_resumes_it(
    server: None, tmp_path: Path, is_short_of_space: bool
) -> None:
    path, (ours, theirs) = entry_path(tmp_path, "key"), multiprocessing.Pipe()
    builder = SERVER.Process(target=build_for_ever, args=(path, theirs))
    builder.start()
    try:
        assert ours.recv() == "begun"
        partial = tmp_path / "decoded" / "distcls-key.partial"
        make_older(partial, 2)
        remove_unused(tmp_path / "decoded", *([0] if is_short_of_space else []))
        assert partial.exists()  # its builder lives, however long it takes
    finally:
        builder.kill()
        builder.join()
    make_older(partial, 0.5)
    remove_unused(tmp_path / "decoded")
    assert partial.exists()  # the same command may resume it today
    make_older(partial, 0 if is_short_of_space else 1.5)
    remove_unused(tmp_path / "decoded", *([0] if is_short_of_space else []))
    assert not partial.exists()
