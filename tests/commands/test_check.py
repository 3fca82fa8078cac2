"""`distcls check` says what is in a folder and what is wrong with it, and training agrees with what it says."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distcls.cli import main
from distcls.config.loading import load_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train, val and test of two classes: 120 images of noise, no two alike."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 20), ("test", 20)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{i:02}.png")
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def check(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what was found."""
    code = main(["check", str(folder), "--json", str(folder.parent / "found.json"), *words])
    return code, json.loads((folder.parent / "found.json").read_text())


def test_a_good_folder_has_nothing_to_complain_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(folder, "--strict")
    assert code == 0 and found["errors"] == found["warnings"] == found["bad_files"] == found["duplicates"] == []
    assert found["num_images"] == 120 and found["formats"] == {"PNG": 120} and found["modes"] == {"RGB": 120}
    assert found["splits"]["val"] == {"num_images": 40, "per_class": {"cat": 20, "dog": 20}}
    assert found["sizes"]["width"] == {"min": 8, "median": 8, "max": 8} and found["image_size"] == 8
    told = capsys.readouterr().out
    assert "train 40, val 40, test 40 images" in told and "all 8 × 8" in told and "warning" not in told


def test_the_next_command_normalizes_with_the_statistics_of_the_training_images(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("test/*/*.png"):  # which do not count
        Image.new("RGB", (8, 8), "white").save(path)
    _, found = check(folder)
    pixels = np.stack([np.asarray(Image.open(path)) for path in folder.glob("train/*/*.png")]) / 255
    assert found["normalize"]["mean"] == pytest.approx(pixels.mean((0, 1, 2)), abs=6e-5)
    assert found["normalize"]["std"] == pytest.approx(pixels.std((0, 1, 2)), abs=6e-5)
    command = f"distcls train --data {folder} 'augment.normalize.mean={found['normalize']['mean']}'"
    assert command in capsys.readouterr().out


def next_command(*words: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert main(["check", *words]) == 0
    return shlex.split(capsys.readouterr().out.splitlines()[-1])


def normalizes(words: list[str]) -> bool:
    return any(word.startswith("augment.normalize.mean=") for word in words)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], False),
        (["preset=none"], True),
        (["preset=none", "model.name=timm/test_vit", "model.pretrained=true"], False),
        (["preset=none", "augment.normalize.std=[0.2, 0.3, 0.4]"], False),
    ],
)
def test_photographs_are_normalized_as_their_preset_or_the_config_does(
    folder: Path, capsys: pytest.CaptureFixture[str], settings: list[str], expected: bool
) -> None:
    """Below 64 pixels, no preset applies unless it is named."""
    words = [str(folder), *settings]
    assert normalizes(next_command(*words, capsys=capsys)) == (expected or not settings)
    assert not normalizes(next_command(str(folder), "preset=balanced", capsys=capsys))
    for path in folder.glob("train/*/*.png"):
        with Image.open(path) as image:
            image.resize((64, 70)).save(path)
    found = next_command(*words, capsys=capsys)
    assert found[:4] == ["distcls", "train", "--data", str(folder)] and normalizes(found) == expected
    assert found[4 + 2 * expected :] == settings
    if not settings:
        (folder.parent / "c.yaml").write_text("preset: none")
        assert normalizes(next_command("-c", str(folder.parent / "c.yaml"), *words, capsys=capsys))


@pytest.mark.parametrize("looked_at", [64, 63])
def test_training_takes_the_same_images_for_photographs(
    folder: Path, capsys: pytest.CaptureFixture[str], looked_at: int
) -> None:
    """Of these images, those that it looks at are smaller or larger than all others."""
    from distcls.data.sources.datasets import open_image_sets
    from distcls.training.start.settling import are_photographs

    config = load_config(None, [f"data.root={folder}", "data.name=folder"]).data
    train = open_image_sets(config)["train"]
    places = np.linspace(0, len(train) - 1, 12).astype(int)
    for i in range(len(train)):
        side = looked_at if i in places else 127 - looked_at
        Image.new("RGB", (side, 70), (i, i, i)).save(folder / train.name(i))
    (folder / train.name(places[1])).write_bytes(b"")
    assert are_photographs(train, config) == (looked_at == 64)
    command = next_command(str(folder), "data.max_bad_fraction=1", capsys=capsys)
    assert normalizes(command) == (looked_at == 63)


def test_the_next_command_has_the_settings_that_were_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "not these.txt").write_text("train/cat/00.png")
    typed = [f"data.exclude={folder}/not these.txt", "data.name=folder", f"data.root={folder}", "data.image_size=16"]
    words = next_command(*typed, capsys=capsys)
    assert words[-4:] == typed and "--data" not in words and normalizes(words)
    assert main([*words[1:], "--print-config"]) == 0
    assert f"exclude: {folder}/not these.txt" in capsys.readouterr().out


def test_many_images_are_checked_in_parallel_and_give_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "train" / "cat" / "03.png").write_bytes(b"")
    shutil.copy(folder / "train" / "dog" / "01.png", folder / "val" / "dog" / "copy.png")
    alone = check(folder, "data.max_bad_fraction=1")
    monkeypatch.setattr("distcls.data.decoding.parallel.MIN_IMAGES", 0)
    monkeypatch.setattr("distcls.data.decoding.parallel.MAX_CHUNK_IMAGES", 7)
    assert check(folder, "data.max_bad_fraction=1") == alone
    assert len(alone[1]["bad_files"]) == len(alone[1]["duplicates"]) == 1


def test_bad_files_are_named_with_their_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "test" / "dog" / "00.png").read_bytes()
    (folder / "test" / "dog" / "00.png").write_bytes(whole[:100])
    (folder / "train" / "cat" / "07.png").write_text("not an image")
    code, found = check(folder)
    assert code == 65
    assert [file["path"] for file in found["bad_files"]] == ["train/cat/07.png", "test/dog/00.png"]
    assert found["bad_files"][0]["reason"] == "not an image, or in an unsupported format"
    assert "truncated" in found["bad_files"][1]["reason"]
    told = capsys.readouterr()
    assert "  train/cat/07.png: not an image" in told.out and "next" not in told.out
    assert "2 of 120 images are unreadable, more than data.max_bad_fraction=0.01" in told.err
    assert "data.max_bad_fraction=0.017" in told.err
    assert check(folder, "data.max_bad_fraction=0.017")[0] == 0
    assert check(folder, "data.max_bad_fraction=0.017", "--strict")[0] == 65


def test_empty_files_are_no_copies_of_each_other(folder: Path) -> None:
    for split in ("train", "test"):
        (folder / split / "cat" / "00.png").write_bytes(b"")
    assert check(folder)[1]["duplicates"] == []


def test_copies_across_splits_and_classes_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "train" / "cat" / "00.png", folder / "test" / "cat" / "leaked.png")
    shutil.copy(folder / "train" / "cat" / "01.png", folder / "train" / "dog" / "relabeled.png")
    shutil.copy(folder / "train" / "cat" / "02.png", folder / "train" / "cat" / "twice.png")
    code, found = check(folder)
    assert code == 0
    groups = {group["images"][1]: (group["is_leak"], group["is_conflict"]) for group in found["duplicates"]}
    assert groups == {
        "test/cat/leaked.png": (True, False),
        "train/dog/relabeled.png": (False, True),
        "train/cat/twice.png": (False, False),
    }
    assert ["more than one split" in line or "more than one class" in line for line in found["warnings"]] == [True] * 2
    told = capsys.readouterr().out
    assert "train/cat/00.png (train) = test/cat/leaked.png (test)" in told
    assert "warning: 1 image is in more than one split" in told
    assert check(folder, "--strict")[0] == 65


def test_a_leak_is_shown_by_a_copy_of_each_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("train/cat/x1", "train/cat/x2", "train/cat/x3", "val/dog/x4", "test/dog/x5"):
        shutil.copy(folder / "train" / "cat" / "00.png", folder / f"{place}.png")
    check(folder)
    shown = "train/cat/00.png (train) = val/dog/x4.png (val) = test/dog/x5.png (test) = 3 more"
    assert shown in capsys.readouterr().out


def test_copies_leak_into_the_splits_that_training_would_cut(folder: Path) -> None:
    for path in (folder / "train").glob("*/0*.png"):
        shutil.copy(path, path.with_name(f"copy{path.name}"))
    found = check(folder / "train")[1]
    leaks = [group for group in found["duplicates"] if group["is_leak"]]
    assert len(found["duplicates"]) == 20 > len(leaks) > 0 and set(leaks[0]["splits"]) <= {"train", "val", "test"}


def test_the_same_pixels_in_another_file_are_not_a_copy(folder: Path) -> None:
    Image.open(folder / "train" / "cat" / "00.png").save(folder / "train" / "cat" / "again.bmp")
    assert check(folder)[1]["duplicates"] == []


def test_too_few_images_are_told(folder: Path) -> None:
    for path in [*(folder / "train" / "dog").glob("?[3-9].png"), *(folder / "val").glob("*/1*.png")]:
        path.unlink()
    for path in (folder / "train" / "dog").glob("1*.png"):
        path.unlink()
    code, found = check(folder)
    assert code == 0
    assert found["warnings"] == [
        "dog has 3 training images: hard to learn from",
        "val has 20 images, each worth 5% of its accuracy: too few to measure reliably",
    ]


def test_a_class_without_readable_images_is_an_error(folder: Path) -> None:
    for path in (folder / "train" / "dog").iterdir():
        path.write_bytes(b"")
    code, found = check(folder, "data.max_bad_fraction=1")
    assert (
        code == 65
        and "no readable training images in 1 class: dog. Add images, or remove this class" in found["errors"][0]
    )


def test_modes_formats_and_animations_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(folder / "train" / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("CMYK", (8, 20)).save(folder / "train" / "dog" / "print.jpg")
    (folder / "train" / "dog" / "notes.txt").touch()
    _, found = check(folder)
    assert found["formats"] == {"PNG": 120, "GIF": 1, "JPEG": 1} and found["modes"]["CMYK"] == 1
    assert found["num_animations"] == found["num_ignored_files"] == 1
    assert found["sizes"]["num_shapes"] == 2 and found["sizes"]["height"]["max"] == 20
    assert "; 1 animation (first frame); 1 other file ignored" in capsys.readouterr().out


def test_pictures_are_drawn(folder: Path) -> None:
    (folder / "train" / "cat" / "00.png").write_bytes(b"")
    assert check(folder, "--plots", str(folder.parent / "plots"))[0] == 0
    drawn = sorted(path.name for path in (folder.parent / "plots").iterdir())
    assert drawn == ["classes.png", "colors.png", "samples.png", "sizes.png"]


def test_images_in_memory_can_be_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert "train 1,294, val 144, test 359 images" in told and told.rstrip().endswith("0.3757]'")


def test_a_process_of_its_own_writes_only_json_to_stdout(folder: Path) -> None:
    """As a program would call it; and without torch, which it does not need."""
    (folder.parent / "torch.py").write_text("raise SystemExit('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": f"{folder.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    words = [sys.executable, "-m", "distcls", "check", "--data", str(folder), "--json", "-"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_images"] == 120 and "train 40" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["/nowhere"], 66, "the image folder /nowhere does not exist"),
        (["a", "b"], 2, "give one folder of images, and settings as key=value, not a and b"),
        (["a", "--data", "b"], 2, "not a and b"),
        (["--plot", "x"], 2, "did you mean --plots?"),
        (["data.rot=x"], 2, "did you mean 'data.root'?"),
    ],
)
def test_mistakes_are_explained(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *words]) == code
    assert message in capsys.readouterr().err
