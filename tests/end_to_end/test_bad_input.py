"""What is wrong with a folder of images is found before the first step, named, and never trained or measured on."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mutated_images
import numpy as np
import pytest
from PIL import Image
from ranks import read_json

from distcls.cli import main

FAST = ["--data", "images", "train.num_steps=2", "train.num_threads=1", "run.trackers=[]"]


def write_noise(folder: Path, count: int, suffix: str = "png") -> None:
    draw = np.random.default_rng([count, *os.fsencode(folder.name)])
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(draw.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / f"{i:02}.{suffix}")


@pytest.fixture
def images(ranks) -> Path:
    """train and test of two classes in the folder where commands run."""
    for split, count in (("train", 30), ("test", 12)):
        for name in ("cat", "dog"):
            write_noise(ranks.folder / "images" / split / name, count, "jpg")
    return ranks.folder / "images"


def truncate(path: Path) -> None:
    """Half of the pixels are gone; the header, which says nothing of it, is there."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


def test_bad_images_are_left_out_of_training_and_never_replaced_in_evaluation(ranks, images):
    (images / "train" / "cat" / "03.jpg").write_bytes(b"")
    (images / "train" / "dog" / "04.jpg").write_text("a text, whatever its name says")
    truncate(images / "test" / "dog" / "05.jpg")
    assert "3 of 84 images are unreadable" in ranks.run("train", *FAST, "--name", "strict", expect=65)
    assert read_json(ranks.folder / "runs" / "strict" / "status.json")["state"] == "failed"
    told = ranks.run("train", *FAST, "--name", "run", "data.max_bad_fraction=0.05")
    assert "test 23 images; 3 unreadable skipped, see data_report.json" in told
    run_dir = ranks.folder / "runs" / "run"
    bad = {file["path"]: file["reason"] for file in read_json(run_dir / "data_report.json")["bad_files"]}
    assert list(bad) == ["train/cat/03.jpg", "train/dog/04.jpg", "test/dog/05.jpg"]
    assert bad["train/cat/03.jpg"] == "an empty file" and "not an image" in bad["train/dog/04.jpg"]
    assert "truncated" in bad["test/dog/05.jpg"]
    for cache in ("data.cache=4 GB", "data.cache=0"):
        ranks.run("eval", "runs/run", cache, "--csv", "test.csv", "--json", "test.json")
        measured = [row["image"] for row in csv.DictReader((ranks.folder / "test.csv").open())]
        assert len(measured) == len(set(measured)) == 23 == read_json(ranks.folder / "test.json")["count"]
        assert not set(measured) & set(bad)
    told = ranks.run("predict", "runs/run", "images/test/dog")
    assert told.count("images/test/dog/") == 12 and "warning: images/test/dog/05.jpg: image file is trunc" in told


def empty_class(root: Path) -> None:
    (root / "train" / "zebra").mkdir()


def one_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "dog")


def unknown_class(root: Path) -> None:
    write_noise(root / "test" / "Cat", 3)


def empty_split(root: Path) -> None:
    (root / "val").mkdir()


def no_train(root: Path) -> None:
    (root / "train").rename(root / "for-training")


def file_instead_of_folder(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("")


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (empty_class, 65, "train/zebra has no images"),
        (one_class, 65, "train has only one class folder, cat/: training needs at least two"),
        (unknown_class, 65, "test/Cat is a class without training images (the classes are cat, dog)"),
        (empty_split, 65, "val has no class folders. Add some, or remove it"),
        (no_train, 66, "has test/ but no train/ with class folders"),
        (file_instead_of_folder, 66, "is not a folder"),
    ],
)
def test_what_cannot_be_trained_on_is_explained_by_check_and_by_train(
    ranks, images: Path, spoil: Callable[[Path], None], code: int, message: str, capsys: pytest.CaptureFixture[str]
):
    spoil(images)
    assert message in ranks.run("train", *FAST, expect=code)
    assert main(["check", str(images)]) == code
    assert message in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_named(images: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    scan = os.scandir

    def refuse(path):
        if os.fsdecode(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # rights would not do: these tests may run as root
    assert main(["check", str(images)]) == 66
    assert f"cannot list the folder {images}/train/dog: Permission denied" in capsys.readouterr().err


def test_runs_in_the_folder_of_images_are_no_class(ranks):
    for name in ("cat", "dog"):
        write_noise(ranks.folder / "photos" / name, 20)
    for name in ("first", "second"):  # the second finds the pictures of the first
        told = ranks.run("train", "--data", ".", *FAST[2:], "--name", name, setup=partial(os.chdir, "photos"))
        assert "; 1 other file ignored" in told
        assert read_json(ranks.folder / "photos" / "runs" / name / "classes.json") == ["cat", "dog"]


def test_labels_that_do_not_match_are_refused(ranks):
    (ranks.folder / "made.py").write_text(
        "import numpy as np\n"
        "from distcls.data.sources.image_set import ArraySet\n"
        "def make(config):\n"
        "    labels = np.arange(50) % 4\n"
        "    return ArraySet('made', ['a', 'b', 'c'], labels, np.zeros((50, 8, 8, 3), np.uint8))\n"
    )
    told = ranks.run("train", "data.name=made:make", "train.num_threads=1", expect=65)
    assert "labels of the train split of made:make must be between 0 and 2" in told


def test_what_was_trained_on_by_range_and_background_is_so_predicted(ranks):
    for name, level in (("dark", 0.0), ("light", 0.8)):
        (ranks.folder / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.full((8, 8), level + i / 400, np.float32)
            Image.fromarray(pixels).save(ranks.folder / "images" / name / f"{i}.tif")
    assert "data.float_range=[0, 1]" in ranks.run("train", *FAST, "--name", "none", expect=65)
    ranks.run("train", *FAST, "--name", "run", "data.float_range=[0, 1]", "data.background=black")
    preprocessing = read_json(ranks.folder / "runs" / "run" / "model" / "preprocessing.json")
    assert preprocessing["float_range"] == [0, 1] and preprocessing["background"] == "black"
    told = ranks.run("predict", "runs/run", "images/dark/0.tif", "images/light/0.tif")
    assert told.count("%") == 4
    ranks.run("eval", "runs/run")


def test_little_data_is_told_before_the_first_step(ranks):
    for name in ("cat", "dog"):
        write_noise(ranks.folder / "images" / name, 4 if name == "cat" else 40)
    before, _ = ranks.run("train", *FAST).split("val accuracy")
    few, *unsure = read_json(ranks.folder / "runs" / "images" / "data_report.json")["warnings"]
    assert few.startswith("cat has ") and few.endswith(" training images: hard to learn from") and few in before
    assert (
        len(unsure) == 2 and "val has 4 images, each worth 25% of its accuracy: too few to measure reliably" in before
    )


def test_mutated_files_crash_nothing_and_are_all_named(ranks):
    rejected, named = mutated_images.check_that_all_is_named(ranks.folder, ranks.run, count=24, seed=1)
    assert named >= rejected > 8


def test_names_that_are_not_utf8_are_trained_on_measured_and_shown(ranks):
    """As old archives have them; in class names too."""
    for name in (b"caf\xe9", b"th\xe9"):
        write_noise(ranks.folder / "images" / os.fsdecode(name), 40)
        (ranks.folder / "images" / os.fsdecode(name) / "00.png").rename(
            ranks.folder / "images" / os.fsdecode(name) / os.fsdecode(b"\xe9.png")
        )
    ranks.run("train", *FAST, "--name", "run")
    run_dir = ranks.folder / "runs" / "run"
    assert read_json(run_dir / "status.json")["state"] == "finished"
    assert (run_dir / "plots" / "predictions.png").exists()
    ranks.run("eval", "runs/run", "--json", "test.json", "--csv", "test.csv")
    assert read_json(ranks.folder / "test.json")["class_names"] == [os.fsdecode(b"caf\xe9"), os.fsdecode(b"th\xe9")]
    assert "?.png  " in ranks.run("predict", "runs/run", "images")
    ranks.run("check", "images", "--json", "found.json", "--plots", "pictures")


def test_new_images_are_measured_as_the_model_was_trained(ranks):
    """At its size and by its class ids, whatever sizes and classes the new ones have."""
    for folder, side, names in (("images", 24, "ant cat dog"), ("new", 300, "cat dog")):
        for name in names.split():
            write_noise(ranks.folder / folder / name, 30)
            for file in (ranks.folder / folder / name).iterdir():
                Image.open(file).resize((side, side)).save(file)
    ranks.run("train", *FAST, "--name", "run")
    ranks.run("eval", "runs/run", "--data", "new", "--split", "all", "--csv", "all.csv")
    told = ranks.run("predict", "runs/run", "new", "--top", "1")
    predicted = {
        line.split()[0].removeprefix("new/"): line.split()[1] for line in told.splitlines() if ".png  " in line
    }
    measured = {row["image"]: row["prediction"] for row in csv.DictReader((ranks.folder / "all.csv").open())}
    assert len(measured) == 60 and measured == predicted
    assert {row["label"] for row in csv.DictReader((ranks.folder / "all.csv").open())} == {"cat", "dog"}
    shutil.move(ranks.folder / "new" / "cat", ranks.folder / "cats" / "cat")
    ranks.run("eval", "runs/run", "--data", "cats", "--split", "all", "--json", "cats.json")
    assert read_json(ranks.folder / "cats.json")["count"] == 30
    (ranks.folder / "new" / "dog").rename(ranks.folder / "new" / "wolf")
    told = ranks.run("eval", "runs/run", "--data", "new", "--split", "all", expect=2)
    assert (
        "the run was not trained on 'wolf': rename or leave out these classes. The run's classes are ant, cat, dog."
        in told
    )
    told = ranks.run("eval", "runs/run", "data.image_size=32", expect=2)
    assert "data.image_size=32: a run is evaluated with the settings it was trained with" in told
    told = ranks.run("eval", "runs/run", "--json", "no/such.json", expect=66)
    assert "no/such.json cannot be written: there is no folder no" in told


def test_folders_of_images_to_predict_are_listed_as_those_to_train_on(ranks, images):
    ranks.run("train", *FAST, "--name", "run")
    (images / "test" / "cat" / "._00.jpg").write_bytes(b"what macOS leaves in archives")
    (images / "test" / "cat" / "album.jpg").mkdir()
    assert ranks.run("predict", "runs/run", "images/test").count("images/test/") == 24
