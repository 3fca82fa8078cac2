"""The command finds wrong labels and near-duplicates in finished runs, and its list is what data.exclude takes."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from distcls.cli import main
from distcls.config.settings import DataConfig
from distcls.data.build import OneProcess, build_data
from distcls.sweeps.audit.out_of_fold import load_out_of_fold

WRONG = {"cat/03.png": "dog", "dog/07.png": "bee"}
"""Images that the made-up models put in another class: as far as anybody can tell, their labels are wrong."""


def read(file: str) -> list[dict[str, str]]:
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def copy(image: str, to: str, mirrored: bool = False) -> None:
    with Image.open(f"images/{image}") as opened:
        changed = ImageOps.mirror(opened) if mirrored else opened.convert("RGB")
        changed.save(f"images/{to}", quality=60)


def test_the_folds_of_a_crossval_judge_all_images(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folds(WRONG)
    assert main(["audit", "runs/made"]) == 0
    told = capsys.readouterr().out
    assert (
        "the labels of 60 of 60 images, by 2 runs" in told
        and "2 of 60 labels look wrong (3.3%); about 2 of these really are" in told
    )
    assert "  cat/03.png: cat, probably dog" in told and "warning" not in told
    found = read("runs/made-audit/audit.csv")
    assert {(row["image"], row["label"], row["suggested"], row["reason"]) for row in found} == {
        ("cat/03.png", "cat", "dog", "label error"),
        ("dog/07.png", "dog", "bee", "label error"),
    }
    assert all(0 < float(row["score"]) <= 1 for row in found)
    page = Path("runs/made-audit/audit.html").read_text()
    assert ">dog?</span>" in page and ">labeled cat</span>" in page and "2 of 60 labels look wrong" in page
    assert re.findall(r"https?://(?!www\.w3\.org)\S+", page) == [] and len(page) < 5_000_000
    command = next(line for line in told.splitlines() if "data.exclude=" in line).split()
    assert main([*command[1:], "--print-config"]) == 0
    assert "exclude: runs/made-audit/audit.csv" in capsys.readouterr().out


def test_the_list_is_left_out_of_training(write_folds: Callable[..., list[Path]]) -> None:
    write_folds(WRONG)
    main(["audit", "runs/made", "--output", "found"])
    config = DataConfig(name="folder", root="images", exclude="found/audit.csv", cache_dir="cache")
    data = build_data(config, OneProcess())
    assert sum(map(len, data.splits())) == 58 and data.report["num_excluded"] == 2


def test_a_single_run_says_what_it_cannot_judge(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folds({}, folds=None)
    assert main(["audit", "runs/made"]) == 0
    told = capsys.readouterr().out
    assert "the labels of 17 of 60 images, by 1 run" in told
    assert "warning: the other 43 images were trained on, so their labels cannot be judged" in told.replace("\n", " ")
    commands = [line.split() for line in told.splitlines() if line.startswith("  distcls ")]
    assert [words[1] for words in commands] == ["crossval", "audit", "train"]
    assert commands[1][2] == "runs/made-folds" and "data.exclude=runs/made-folds-audit/audit.csv" in commands[2]
    assert main([*commands[0][1:], "--print-config"]) == 0
    assert read("runs/made-audit/audit.csv") == []


def test_the_next_commands_find_the_images_and_have_a_test_split(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The images have moved since, and the folds had no test split, so that all of them are judged."""
    write_folds(WRONG, test_fraction=0.0)
    Path("images").rename("moved")
    assert main(["audit", "runs/made", "--data", "moved"]) == 0
    told = capsys.readouterr().out
    command = next(line for line in told.splitlines() if "data.exclude=" in line).split()
    assert main([*command[1:], "--dry-run"]) == 0
    assert main([*command[1:], "--print-config"]) == 0
    assert f"test_fraction: {DataConfig().test_fraction}" in capsys.readouterr().out


def write_csv(splits: bool = False, *more: str) -> str:
    """images/list.csv, of all images and further lines; with a column `split` in which some are val."""
    images = sorted(path.relative_to("images") for path in Path("images").glob("*/*.png"))
    lines = [f"{path},{path.parent}" for path in images]
    if splits:
        lines = [f"{line},{'val' if '1' in line else 'train'}" for line in lines]
    Path("images/list.csv").write_text("\n".join([f"path,label{',split' * splits}", *lines, *more]))
    return "images/list.csv"


def next_commands(told: str) -> list[list[str]]:
    return [shlex.split(line) for line in told.splitlines() if line.startswith("  distcls ")]


def test_data_with_its_own_val_split_cannot_be_cut_into_folds(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folds(WRONG, folds=None, root=write_csv(splits=True))
    assert main(["audit", "runs/made"]) == 0
    told = capsys.readouterr().out
    assert "data with a val split of its own cannot be cut into folds" in told.replace("\n", " ")
    (command,) = next_commands(told)
    assert command[:2] == ["distcls", "train"] and "data.exclude=runs/made-audit/audit.csv" in command
    assert main([*command[1:], "--dry-run"]) == 0


def test_a_fold_is_judged_together_with_the_others(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folds(WRONG, folds=3)
    shutil.rmtree("runs/made-fold0")
    assert main(["audit", "runs/made-fold1"]) == 0
    told = capsys.readouterr().out
    assert "all folds of the cross-validation, audited together, judge all of them" in told.replace("\n", " ")
    train, audit, clean = next_commands(told)
    assert train[1] == "train" and audit[1:] == ["audit", "runs/made"] and clean[1] == "train"
    assert main([*train[1:], "--dry-run"]) == 0
    capsys.readouterr()
    for command, name in ((train, "dir: runs/made-fold0"), (clean, "name: made-clean")):
        assert main([*command[1:], "--print-config"]) == 0
        config = capsys.readouterr().out
        assert name in config and ("fold: 0" in config) == (command is train)
    assert "data.exclude=runs/made-audit/audit.csv" in clean
    write_folds(WRONG, folds=3)
    assert main(["audit", "runs/made-fold1", "runs/made-fold2"]) == 0
    commands = next_commands(capsys.readouterr().out)
    assert [words[1:3] for words in commands] == [["audit", "runs/made"], ["train", "-c"]]


def test_the_next_commands_can_be_typed_whatever_the_run_is_called(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folds(WRONG, name="odd: [a #1")
    assert main(["audit", "runs/odd: [a #1"]) == 0
    (command,) = next_commands(capsys.readouterr().out)
    assert main([*command[1:], "--print-config"]) == 0
    assert "exclude: 'runs/odd: [a #1-audit/audit.csv'" in capsys.readouterr().out


def test_an_image_that_a_list_has_twice_is_not_lost(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ["bee/00.png,bee", "bee/01.png,bee", "cat/05.png,dog"]
    write_folds({}, root=write_csv(False, *twice))
    assert main(["audit", "runs/made"]) == 0
    told = capsys.readouterr().out
    assert "the labels of 61 of 61 images, by 2 runs" in told and "warning" not in told
    assert [words[1] for words in next_commands(told)] == ["train"]
    assert {row["image"] for row in read("runs/made-audit/audit.csv")} == {"cat/05.png"}


def test_the_folds_are_meant_if_a_run_has_their_name_too(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folds({}, folds=None)
    write_folds(WRONG)
    assert main(["audit", "runs/made"]) == 0
    assert "the labels of 60 of 60 images, by 2 runs" in capsys.readouterr().out


def test_near_duplicates_are_listed_by_the_harm_that_they_do(
    write_folds: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    copy("cat/05.png", "dog/copy.jpg", mirrored=True)
    for i in range(20):
        copy(f"bee/{i:02}.png", f"bee/copy{i:02}.jpg")
    write_folds({"dog/copy.jpg": "cat"})
    assert main(["audit", "runs/made"]) == 0
    pairs = {(row["image"], row["other"]): row for row in read("runs/made-audit/duplicates.csv")}
    assert len(pairs) == 21
    conflict = pairs["cat/05.png", "dog/copy.jpg"]
    assert (conflict["label"], conflict["other_label"], conflict["mirrored"]) == ("cat", "dog", "yes")
    found = {row["image"]: row for row in read("runs/made-audit/audit.csv")}
    assert found["dog/copy.jpg"]["reason"] == "label error" and "cat/05.png" not in found
    bees = [row for row in pairs.values() if row["label"] == "bee"]
    leaks = [row for row in bees if {row["place"], row["other_place"]} != {"test"}]
    assert any(row["place"] == row["other_place"] for row in leaks), "the next run's splits may separate them"
    assert len(found) == 1 + len(leaks)
    for row in leaks:
        kept, left_out = (row["image"], row["other"])[:: -1 if row["place"] != "test" == row["other_place"] else 1]
        assert found[left_out]["reason"].startswith(f"near-duplicate of {kept}, in ")
    page = Path("runs/made-audit/audit.html").read_text()
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles == [
        "Probable label errors",
        "Near-duplicates with different labels",
        "Near-duplicates across splits or in folds",
        *(["Other near-duplicates"] if len(leaks) < len(bees) else []),
        "Next",
    ]
    told = capsys.readouterr().out
    assert f"21 near-duplicates: 1 with different labels, {len(leaks)} more across splits or in folds" in told


def test_of_two_labels_that_nobody_can_judge_both_are_left_out(write_folds: Callable[..., list[Path]]) -> None:
    data = build_data(DataConfig(name="folder", root="images", cache_dir="cache"), OneProcess())
    train = next(name for name in data.split_lists()["train"] if str(name).startswith("cat"))
    copy(str(train), "dog/zz.jpg")
    write_folds({}, folds=None)
    assert main(["audit", "runs/made"]) == 0
    found = read("runs/made-audit/audit.csv")
    places = {row["image"]: row["place"] for row in read("runs/made-audit/duplicates.csv")}
    assert len(places) == 1 and {row["suggested"] for row in found} <= {"cat", "dog"}
    assert len(found) in (1, 2) and found[0]["reason"].startswith("near-duplicate of ")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["runs/mad"], 66, "runs/mad: no such run folder."),
        (["runs/made", "--data", "nowhere"], 66, "nowhere does not exist"),
        (["runs/made", "--output", "no/such/folder"], 66, "there is no folder no/such"),
        (["runs/made-fold0", "runs/other"], 2, "runs/other has 2 classes that are not the 3 of runs/made-fold0"),
        (["runs/unfinished"], 66, "runs/unfinished has no predictions to audit: it is preempted"),
        (["runs/damaged"], 74, "val.npz is damaged"),
        (["runs/two"], 66, "runs/two has no two-fold1 yet: run the same distcls crossval command again"),
        (["runs/made", "--data", "renamed"], 2, "the images are not those of runs/made-fold0: 1 of 60 are not there"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    words: list[str],
    code: int,
    expected: str,
    write_folds: Callable[..., list[Path]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, _ = write_folds({})
    for name in ("other", "unfinished", "damaged", "two-fold0"):
        shutil.copytree(first, f"runs/{name}")
    Path("runs/other/classes.json").write_text('["a", "b"]')
    shutil.rmtree("runs/unfinished/predictions")
    Path("runs/unfinished/status.json").write_text('{"state": "preempted"}')
    Path("runs/damaged/predictions/val.npz").write_bytes(b"PK")
    shutil.copytree("images", "renamed")
    Path("renamed/cat/03.png").rename("renamed/cat/99.png")
    assert main(["audit", *words]) == code
    assert expected in capsys.readouterr().err


def test_only_the_largest_probabilities_are_enough(write_folds: Callable[..., list[Path]]) -> None:
    whole, top = (load_out_of_fold(write_folds(WRONG, top=top)) for top in (None, 2))
    assert np.allclose(whole.probs, top.probs) and whole.names == top.names
