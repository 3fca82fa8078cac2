from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcls.config.settings import DataConfig
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.image_set import ImageSet
from distcls.errors import BadDataError, DistclsError, MissingInputError, UsageError

TENCH, BIRD, MACHINE = "n01440764", "n02012849", "n03126707"
MAPPING = f"{TENCH} tench, Tinca tinca\n{BIRD} crane\n{MACHINE} crane\n"
VAL = [MACHINE, TENCH, BIRD]
"""Classes of the validation images, in the order of their numbers."""


def save(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level,) * 3).save(path, "JPEG")


def opened(root: Path, name: str) -> dict[str, ImageSet]:
    return open_image_sets(DataConfig(name=name, root=str(root)))


@pytest.fixture
def imagenet(tmp_path: Path) -> Callable[..., Path]:
    def make(folder: str = "", flat: bool = True) -> Path:
        """Two training images per class, three of val; the level of each val image is its number."""
        for wnid in (TENCH, BIRD, MACHINE):
            for i in range(2):
                save(tmp_path / folder / "train" / wnid / f"{wnid}_{i}.JPEG", 0)
        for number, wnid in enumerate(VAL, 1):
            save(
                tmp_path / folder / "val" / ("" if flat else wnid) / f"ILSVRC2012_val_{number:08}.JPEG",
                number * 20,
            )
        save(tmp_path / folder / "test" / "ILSVRC2012_test_00000001.JPEG", 0)
        return tmp_path

    return make


def write_solution(root: Path) -> None:
    lines = [f"ILSVRC2012_val_{number:08},{wnid} 85 1 499 272 {wnid} 1 2 3 4" for number, wnid in enumerate(VAL, 1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(lines)]) + "\n")


def write_devkit(root: Path) -> None:
    """Its numbers are not in the order of the WordNet ids."""
    from scipy.io import savemat

    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    numbers = {MACHINE: 1, TENCH: 2, BIRD: 3}
    synsets = np.array([(numbers[wnid], wnid) for wnid in numbers], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(folder / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{numbers[wnid]}\n" for wnid in VAL)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def check_val(image_sets: dict[str, ImageSet]) -> None:
    assert list(image_sets) == ["train", "val"]
    assert image_sets["train"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    val = image_sets["val"]
    by_level = {int(val.image(i, Decoding(8))[0, 0, 0]): int(val.labels[i]) for i in range(3)}
    assert by_level == {20: 2, 40: 0, 60: 1}


@pytest.mark.parametrize("write_labels", [write_solution, write_devkit])
def test_flat_val_images_get_the_labels_of_the_file(
    imagenet: Callable[..., Path], write_labels: Callable[[Path], None]
) -> None:
    write_labels(imagenet())
    image_sets = opened(imagenet(), "imagenet")
    check_val(image_sets)
    assert image_sets["val"].name(0) == "val/ILSVRC2012_val_00000001.JPEG"
    assert image_sets["train"].class_names == [TENCH, BIRD, MACHINE]


def test_kaggles_archive_and_readable_names(imagenet: Callable[..., Path]) -> None:
    root = imagenet("ILSVRC/Data/CLS-LOC")
    write_solution(root)
    (root / "LOC_synset_mapping.txt").write_text(MAPPING)
    image_sets = opened(root, "imagenet")
    check_val(image_sets)
    assert image_sets["train"].class_names == ["tench", f"crane ({BIRD})", f"crane ({MACHINE})"]


def test_val_in_class_folders(imagenet: Callable[..., Path]) -> None:
    root = imagenet(flat=False)
    (root / "LOC_synset_mapping.txt").write_text(MAPPING)
    check_val(opened(root, "imagenet"))


def test_class_folders_of_imagenet_are_an_ordinary_folder_too(imagenet: Callable[..., Path]) -> None:
    root = imagenet(flat=False)
    (root / "test" / "ILSVRC2012_test_00000001.JPEG").unlink()
    (root / "test").rmdir()
    check_val(opened(root, "folder"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    lines = []
    for number, wnid in enumerate(VAL):
        save(tmp_path / "train" / wnid / "images" / f"{wnid}_0.JPEG", 0)
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t62\t60\t93\n")
        save(tmp_path / "val" / "images" / f"val_{number}.JPEG", (number + 1) * 20)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    (tmp_path / "words.txt").write_text(f"n00001740\tentity\n{TENCH}\ttench, Tinca tinca\n{BIRD}\tcrane\n")
    save(tmp_path / "test" / "images" / "test_0.JPEG", 0)
    return tmp_path


def test_tiny_imagenet(tiny: Path) -> None:
    image_sets = opened(tiny, "tiny_imagenet")
    assert list(image_sets) == ["train", "val"]
    assert image_sets["train"].class_names == ["tench", "crane", MACHINE]
    assert image_sets["train"].name(0) == f"train/{TENCH}/images/{TENCH}_0.JPEG"
    val = image_sets["val"]
    assert [(val.name(i), int(val.labels[i])) for i in range(3)] == [
        ("val/images/val_0.JPEG", 2),
        ("val/images/val_1.JPEG", 0),
        ("val/images/val_2.JPEG", 1),
    ]


def test_a_plain_folder_of_these_names_the_setting(tiny: Path, imagenet: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match=r"layout of tiny_imagenet.*add data\.name=tiny_imagenet"):
        opened(tiny, "folder")
    (tiny / "val" / "images" / "val_0.JPEG").unlink()
    with pytest.raises(UsageError, match=r"add data\.name=imagenet"):
        opened(imagenet(), "folder")


def forget_an_annotation(root: Path) -> None:
    (root / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\t{TENCH}\n")


def annotate_an_unknown_class(root: Path) -> None:
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99999999\n")


def remove_the_annotations(root: Path) -> None:
    (root / "val" / "val_annotations.txt").unlink()


def remove_train(root: Path) -> None:
    (root / "train").rename(root / "elsewhere")


def leave_one_class(root: Path) -> None:
    for wnid in (BIRD, MACHINE):
        (root / "train" / wnid).rename(root / wnid)


def empty_a_class(root: Path) -> None:
    (root / "train" / BIRD / "images" / f"{BIRD}_0.JPEG").unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (forget_an_annotation, BadDataError, r"val_1\.JPEG is missing from the file of val labels"),
        (annotate_an_unknown_class, BadDataError, "has the class n99999999, but there is no such folder in train"),
        (remove_the_annotations, MissingInputError, r"val_annotations\.txt: .*No such file.*Expected ROOT/train"),
        (remove_train, MissingInputError, "there is no folder .*train. Expected ROOT/train/n01443537"),
        (leave_one_class, BadDataError, "only one class folder"),
        (empty_a_class, BadDataError, f"{BIRD} has no images"),
    ],
)
def test_what_is_wrong_is_named(
    tiny: Path, spoil: Callable[[Path], None], error: type[DistclsError], message: str
) -> None:
    spoil(tiny)
    with pytest.raises(error, match=message):
        opened(tiny, "tiny_imagenet")


def test_flat_val_images_without_labels_are_explained(imagenet: Callable[..., Path]) -> None:
    with pytest.raises(MissingInputError, match=r"have no labels\. Expected ROOT/train.*LOC_val_solution\.csv"):
        opened(imagenet(), "imagenet")
