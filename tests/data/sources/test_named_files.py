"""What people name on a command line, and the files that are meant."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcls.data.sources.named_files import NamedFiles, files_named
from distcls.errors import BadDataError, MissingInputError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a/1.png a/2.jpg a/deep/3.PNG a/notes.txt b.png, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/2.jpg", "a/1.png", "a/deep/3.PNG", "b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("b.png", ["b.png"]),
        ("a", ["a/1.png", "a/2.jpg", "a/deep/3.PNG"]),
        ("./a/deep", ["./a/deep/3.PNG"]),
        ("a/notes.txt", ["a/notes.txt"]),  # named on purpose: reading it will say what is wrong
        ("a/*.png", ["a/1.png"]),
        ("a/*", ["a/1.png", "a/2.jpg", "a/deep/3.PNG"]),
        ("a/**", ["a/1.png", "a/2.jpg", "a/deep/3.PNG"]),
        ("**/*.[pP]*", ["a/1.png", "a/deep/3.PNG", "b.png"]),
        ("empty", []),
    ],
)
def test_files_folders_and_patterns(photos: Path, name: str, found: list[str]) -> None:
    assert files_named(name) == found


def test_pictures_of_runs_are_no_images_unless_their_folder_is_named(photos: Path) -> None:
    run = photos / "runs" / "x"
    (run / "plots").mkdir(parents=True)
    (photos / "b.png").rename(run / "plots" / "loss.png")
    for name in ("config.yaml", "status.json"):
        (run / name).touch()
    assert files_named(".") == ["./a/1.png", "./a/2.jpg", "./a/deep/3.PNG"]
    assert files_named("runs") == [] and files_named("runs/x") == files_named("runs/*") == ["runs/x/plots/loss.png"]


def test_the_order_is_that_of_the_names(photos: Path) -> None:
    files = NamedFiles(["b.png", "a/deep", "a/*.png"])
    assert files.count == 3 and list(files) == ["b.png", "a/deep/3.PNG", "a/1.png"]


def test_a_name_with_brackets_is_a_file_if_there_is_one(photos: Path) -> None:
    (photos / "b.png").rename(photos / "b[1].png")
    assert files_named("b[1].png") == ["b[1].png"]


@pytest.mark.parametrize(
    ("name", "message"), [("c", "c: no such image or folder"), ("c/*.png", "this pattern matches no image or folder")]
)
def test_what_is_not_there_is_an_error_at_once(photos: Path, name: str, message: str) -> None:
    with pytest.raises(MissingInputError, match=message.replace("*", r"\*")):
        NamedFiles(["b.png", name])


def test_a_csv_file_lists_paths_relative_to_itself(photos: Path) -> None:
    (photos / "a" / "list.csv").write_text("id;Path;label\n1;1.png;x\n2;/abs/2.jpg;y\n\n3;;z\n")
    assert files_named("a/list.csv") == ["a/1.png", "/abs/2.jpg"]
    (photos / "paths.csv").write_text("path\nb.png\nmissing.png\n")
    assert files_named("paths.csv") == ["b.png", "missing.png"]
    (photos / "wrong.csv").write_text("image,score\nb.png,1\n")
    with pytest.raises(BadDataError, match="no column 'path', only 'image', 'score'. Rename 'image' to 'path'"):
        files_named("wrong.csv")


def test_stdin_is_read_while_its_images_are_used(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.BytesIO(b"b.png\r\n\ncaf\xe9.png\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(lines))
    files = NamedFiles(["a/1.png", "-"])
    assert files.count is None and lines.tell() == 0
    assert list(files) == ["a/1.png", "b.png", "caf\udce9.png"]
