"""Which folders are runs, and what to call them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distcls.errors import MissingInputError
from distcls.runs.listing import find_runs, short_names


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.yaml").touch()


def test_runs_are_found_once_and_in_the_order_of_people(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs", "a-10", "a-2", "a", "z")
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "a-crossval.json").touch()
    found = find_runs([Path("runs/z"), Path("runs"), Path(f"{tmp_path}/runs/a")])
    assert [str(path) for path in found] == ["runs/z", "runs/a", "runs/a-2", "runs/a-10"]


def test_names_are_as_short_as_they_can_be(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_names([Path("runs/a"), tmp_path / "runs" / "b"]) == ["a", "b"]
    assert short_names([Path("runs/a"), Path("old/runs/a")]) == ["runs/a", "old/runs/a"]
    assert short_names([Path("."), Path("../x")]) == [tmp_path.name, "x"]
    assert short_names([]) == []


def test_a_folder_without_runs_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs", "digits")
    (tmp_path / "empty").mkdir()
    for given, message in (
        ("runs/digit", "runs/digit: no such run folder. Did you mean 'digits'?"),
        ("empty", "empty is not a run folder, and has none in it: give run folders such as runs/digits"),
        ("nothing", "nothing: no such run folder"),
    ):
        with pytest.raises(MissingInputError) as raised:
            find_runs([Path(given)])
        assert message in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(MissingInputError, match="cannot list this folder"):
            find_runs([tmp_path])
    finally:
        tmp_path.chmod(0o700)
