"""Groups are found by paths or in a column of a CSV file, and images of real files stay with their group."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distcls.cli import main
from distcls.config.differences import differences
from distcls.config.loading import load_config
from distcls.config.settings import Config, DataConfig
from distcls.data.build import OneProcess, build_data
from distcls.data.inspection.check import check_data
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.folder import pack
from distcls.data.sources.image_set import ArraySet
from distcls.data.sources.listing import Listing
from distcls.data.split import Data
from distcls.data.splitting.groups import find_groups
from distcls.errors import BadDataError, UsageError

BY_PATIENT = r"(patient\d+)_"


def write_patients(folder: Path, patients: range, images: int = 4) -> None:
    """Photographs of noise, no two alike; those of every other patient are dogs, and one of each is a cat anyway."""
    for patient in patients:
        for i in range(images):
            path = folder / ("dog" if patient % 2 and i else "cat") / f"patient{patient}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([patient, i]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_patients(tmp_path / "photos", range(40))
    return tmp_path / "photos"


@pytest.fixture
def build(photos: Path, tmp_path: Path) -> Callable[..., Data]:
    def build_with(**settings: Any) -> Data:
        given = {"name": "folder", "root": str(photos), "cache_dir": str(tmp_path / "cache"), "groups": BY_PATIENT}
        return build_data(DataConfig(**{**given, **settings}), OneProcess())

    return build_with


def patients_of(data: Data) -> dict[str, set[str]]:
    return {
        split: {name.split("/")[-1].split("_")[0] for name in map(str, names)}
        for split, names in data.split_lists().items()
    }


def test_no_patient_is_in_two_splits(build: Callable[..., Data]) -> None:
    data = build()
    patients = patients_of(data)
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 40
    assert {split.name: len(split) for split in data.splits()} == {"train": 116, "val": 12, "test": 32}
    assert data.report["groups"] == {
        "by": BY_PATIENT,
        "num_groups": 40,
        "num_in_split": {"train": 29, "val": 3, "test": 8},
        "num_in_several_splits": 0,
        "num_images": {"min": 4, "median": 4.0, "max": 4},
    }
    assert (
        "val has 3 groups (12 images), each worth 33% of its accuracy: too few to measure reliably"
        in (data.report["warnings"])
    )
    assert build().fingerprint == data.fingerprint != build(split_seed=1).fingerprint
    without = build(groups=None)
    assert without.report["groups"] is None
    assert sum(map(len, patients_of(without).values())) > 40, "so photographs of a patient were in several splits"


def test_folds_keep_patients_whole(build: Callable[..., Data]) -> None:
    vals = [patients_of(build(folds=4, fold=fold, test_fraction=0))["val"] for fold in range(4)]
    assert list(map(len, vals)) == [10] * 4 and len(set.union(*vals)) == 40


def test_a_bad_or_excluded_image_moves_no_other(build: Callable[..., Data], photos: Path, tmp_path: Path) -> None:
    whole = build().split_lists()
    victims = {whole["train"][3], whole["test"][0]}
    (tmp_path / "names.txt").write_text("\n".join(map(str, victims)))
    data = build(exclude=str(tmp_path / "names.txt"))
    assert data.split_lists() == {split: [one for one in names if one not in victims] for split, names in whole.items()}


def write_csv(photos: Path, with_split: bool = False) -> Path:
    """labels.csv, with a column for patients in an order of its own."""
    with open(photos / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Patient", "path", "label", *(["split"] if with_split else [])])
        for path in sorted(photos.glob("*/*.png"), key=lambda path: path.name[::-1]):
            number = int(re.findall(r"\d+", path.name)[0])
            split = ["test" if number % 4 == 0 else "train"] if with_split else []
            table.writerow([f"patient{number}", path.relative_to(photos), path.parent.name, *split])
    return photos / "labels.csv"


@pytest.mark.parametrize("groups", ["patient", "Patient", BY_PATIENT])
def test_a_csv_file_names_groups_in_a_column_or_in_its_paths(
    build: Callable[..., Data], photos: Path, groups: str
) -> None:
    data = build(name="csv", root=str(write_csv(photos)), groups=groups)
    assert data.report["groups"]["num_groups"] == 40
    by_path = build(name="csv", root=str(photos / "labels.csv"))
    assert data.split_lists() == by_path.split_lists()
    patients = patients_of(data)
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 40
    same = {split: set(map(str, names)) for split, names in build().split_lists().items()}
    assert {split: set(map(str, names)) for split, names in data.split_lists().items()} == same, "whatever the order"


def test_a_csv_file_with_splits_of_its_own(build: Callable[..., Data], photos: Path) -> None:
    data = build(name="csv", root=str(write_csv(photos, with_split=True)), groups="patient")
    assert len(patients_of(data)["test"]) == 10 and data.report["groups"]["num_in_several_splits"] == 0
    file = photos / "labels.csv"
    file.write_text(file.read_text().replace("patient3,", "patient4,"))
    data = build(name="csv", root=str(file), groups="patient")
    assert data.report["groups"]["num_in_several_splits"] == 1 and data.report["groups"]["num_groups"] == 39
    assert "patient4" not in json.dumps(data.report), "from which a public card is made"
    assert data.report["warnings"][0].startswith("1 group is in more than one split of the data set: a model must not")
    named = check_data(DataConfig(name="csv", root=str(file), groups="patient")).warnings()
    assert "in more than one split of the data set, such as patient4 (train and test): a model must not" in named[0]


def test_mistakes_in_the_column(build: Callable[..., Data], photos: Path) -> None:
    file = write_csv(photos)
    with pytest.raises(
        UsageError, match=r"has no such column, only 'Patient', 'path', 'label'. Did you mean 'Patient'"
    ):
        build(name="csv", root=str(file), groups="patients")
    file.write_text(file.read_text().replace("patient7,", ",", 1))
    with pytest.raises(BadDataError, match=r"data.groups=patient: this column is empty for 1 of 160 .* cat/patient7_0"):
        build(name="csv", root=str(file), groups="patient")
    build(name="csv", root=str(file), groups=None)
    alone = check_data(DataConfig(name="csv", root=str(file), groups="path"))
    assert any(warning.endswith("keeps none together: choose another column") for warning in alone.warnings())


def test_a_column_is_not_sent_to_loader_processes(build: Callable[..., Data], photos: Path) -> None:
    data = build(name="csv", root=str(write_csv(photos)), groups="patient")
    assert data.report["groups"]["num_groups"] == 40
    assert data.train.image_set.groups is None  # pyright: ignore[reportAttributeAccessIssue]


def test_images_without_a_group_are_an_error_that_says_what_to_type(build: Callable[..., Data], photos: Path) -> None:
    with pytest.raises(UsageError) as caught:
        build(groups=r"(patient1\d*)_|patient(2\d)_")
    told = str(caught.value)
    assert (
        r"data.groups='(patient1\d*)_|patient(2\d)_' captures nothing in 76 of 160 images: cat/patient0_0.png, " in told
    )
    words = shlex.split(told)[-1]
    assert words == r"data.groups=^(?:.*?(?:(patient1\d*)_|patient(2\d)_)|(.+))"
    config = load_config(None, ["data.name=folder", f"data.root={photos}", words]).data
    names = find_groups(config, open_image_sets(config))["train"].names
    assert len([name for name in names if re.fullmatch(r"patient1\d*|2\d", name)]) == 21
    assert len([name for name in names if name.endswith(".png")]) == 76 and len(names) == 21 + 76
    with pytest.raises(UsageError, match=r"'\(person\)' captures nothing in the paths of 160 images, such as cat/"):
        build(groups="(person)")


@pytest.mark.parametrize("groups", [r"patient\d+_(1?)", r"(?i)(PATIENT1\d*)_"])
def test_an_expression_that_would_not_help_is_not_suggested(build: Callable[..., Data], groups: str) -> None:
    with pytest.raises(UsageError, match=r"captures nothing in \d+ of 160 images: .* Extend it$"):
        build(groups=groups)


def test_no_column_is_taken_for_an_expression(build: Callable[..., Data]) -> None:
    for groups in ("patient", "(patient"):
        with pytest.raises(
            UsageError, match="and the data set has no column of that name: correct it, or add data.groups=nul"
        ):
            build(groups=groups)


def test_only_images_that_splits_are_cut_from_need_groups(photos: Path, tmp_path: Path) -> None:
    write_patients(tmp_path / "own" / "train", range(20))
    write_patients(tmp_path / "own" / "test", range(19, 30))
    for path in (tmp_path / "own" / "test" / "cat").glob("*_0.png"):
        path.rename(path.with_name(f"scan{path.name[7:]}"))
    config = DataConfig(name="folder", root=str(tmp_path / "own"), cache_dir=str(tmp_path), groups=BY_PATIENT)
    data = build_data(config, OneProcess())
    assert len(data.val or []) > 0 and data.report["groups"]["num_in_several_splits"] == 1
    (tmp_path / "own" / "train" / "cat" / "patient4_1.png").rename(tmp_path / "own" / "train" / "cat" / "scan.png")
    with pytest.raises(UsageError, match="captures nothing in 1 of 80 images: train/cat/scan.png"):
        build_data(config, OneProcess())
    assert len(build_data(dataclasses.replace(config, val_fraction=0), OneProcess()).train) == 80
    nowhere = dataclasses.replace(config, val_fraction=0, groups="(person)")
    assert build_data(nowhere, OneProcess()).report["groups"]["num_groups"] == 0


def test_groups_are_found_in_the_path_under_the_folder(tmp_path: Path) -> None:
    for i in range(10):
        write_patients(tmp_path / "photos" / "train" / f"ward{i % 2}", range(i, i + 1))
    config = DataConfig(name="folder", root=str(tmp_path / "photos"), groups=r"^train/([^/]+/[^/]+/patient\d+)_")
    groups = find_groups(config, open_image_sets(config))["train"]
    assert groups.names[0] == "ward0/cat/patient0" and len(groups.names) == 15


def test_images_of_your_own_class_have_groups_by_name() -> None:
    own = ArraySet("horse7", ["a", "b"], np.arange(30) % 2, np.zeros((30, 2, 2, 3), np.uint8))
    groups = find_groups(DataConfig(name="my:own", groups=r"/(\d)"), {"train": own})["train"]
    assert groups.names == list("0123456789") and np.bincount(groups.of).tolist() == [1, 11, 11, 1, 1, 1, 1, 1, 1, 1]


def test_check_warns_of_groups_across_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    write_patients(photos / "train", range(30))
    write_patients(photos / "test", range(28, 40))
    words = ["check", str(photos), f"data.groups={BY_PATIENT}", f"data.cache_dir={tmp_path}"]
    assert main([*words, "--json", str(tmp_path / "found.json")]) == 0
    told, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert f"groups   40 of 4 to 8 images (median 4), by {BY_PATIENT}" in told
    assert "2 groups are in more than one split of the data set, such as patient28 (train and test): a model" in told
    assert any("2 groups are in more than one split" in warning for warning in found["warnings"])
    assert found["groups"]["num_in_several_splits"] == 2 and found["groups"]["num_images"]["max"] == 8
    in_split = found["groups"]["num_in_split"]
    splits = f"(train {in_split['train']}, val {in_split['val']}, test 12), such as patient0, patient1, patient10 …"
    assert splits in told and in_split["test"] == 12
    assert f" 'data.groups={BY_PATIENT}' " in told.splitlines()[-1], "what to type next"
    assert main([*words, "--strict"]) == 65


def test_check_reports_on_the_rest_if_groups_are_wrong(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(photos), "data.groups=(person)"]) == 65
    told = capsys.readouterr()
    assert "train 160 images" in told.out and "next" not in told.out.splitlines()
    assert "no others could be cut, see the error" in told.out and "there is no val split" not in told.out
    assert "data.groups='(person)' captures nothing in the paths of 160 images" in told.err
    assert main(["check", str(photos), f"data.groups={BY_PATIENT}", "data.folds=50", "data.fold=0"]) == 65


def test_check_cuts_as_training_does(build: Callable[..., Data], photos: Path, tmp_path: Path) -> None:
    config = DataConfig(name="folder", root=str(photos), cache_dir=str(tmp_path / "cache"), groups=BY_PATIENT)
    check = check_data(config)
    assert {s.name: [s.image_name(i) for i in range(len(s))] for s in check.splits} == build().split_lists()
    assert not any("more than one split" in warning or "together" in warning for warning in check.warnings())
    alone = check_data(DataConfig(name="folder", root=str(photos), cache_dir=str(tmp_path / "cache"), groups="(.+)"))
    assert any("finds 160 groups in 160 images, so it keeps none together" in one for one in alone.warnings())


def test_groups_belong_to_a_run() -> None:
    of_column = load_config(None, ["data.name=csv", "data.root=labels.csv", "data.groups=patient"])
    assert [str(one) for one in differences(Config(), Config().replaced({"data.groups": of_column.data.groups}))] == [
        "data.groups: null -> patient"
    ]


def test_a_million_images_take_seconds() -> None:
    paths = [b"patient%06d_%02d.jpg" % (i // 12, i % 12) for i in range(1_200_000)]
    numbers = np.zeros(len(paths), np.int64)
    listing = Listing(b"".join(paths), np.array(list(map(len, paths))), numbers, numbers, numbers, [])
    folders = [f"class{i:03}" for i in range(1000)]
    image_set = pack("/photos", folders, folders, np.arange(len(paths)) // 1200, [listing])
    assert list(image_set.names())[::100_000] == [image_set.name(i) for i in range(0, len(paths), 100_000)]
    start = time.process_time()
    groups = find_groups(DataConfig(name="folder", groups=BY_PATIENT), {"train": image_set})["train"]
    assert time.process_time() - start < 20
    assert len(groups.names) == 100_000 and np.array_equal(groups.of, np.arange(1_200_000) // 12)
