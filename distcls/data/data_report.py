"""What is in the data, for data_report.json and for the person who has to repair it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distcls.config import DataConfig
from distcls.data.folder import FolderSet
from distcls.data.image_set import ImageSet
from distcls.data.pixel_cache import Decoded
from distcls.data.split import Split
from distcls.errors import BadDataError

SHOWN = 10  # bad images in an error message


def build_report(
    config: DataConfig,
    splits: list[Split],
    image_sets: Mapping[str, ImageSet],
    decoded: Mapping[str, Decoded],
) -> dict[str, Any]:
    """Counts per split and class, files that were ignored or bad, animations, sizes; JSON types only."""
    folders = [image_set for image_set in image_sets.values() if isinstance(image_set, FolderSet)]
    return {
        "name": config.name,
        "root": config.root,
        "num_images": sum(map(len, image_sets.values())),
        "image_size": splits[0].decoding.image_size,
        "resize": splits[0].decoding.resize,
        "bytes_on_disk": sum(int(folder.sizes.clip(0).sum()) for folder in folders),
        "bytes_decoded": sum(
            split.pixels.nbytes for split in splits if split.pixels is not None and split.name in image_sets
        ),
        "splits": {split.name: _counts(split) for split in splits},
        "num_ignored_files": sum(folder.num_ignored for folder in folders),
        "num_animations": sum(of_set.num_animations for of_set in decoded.values()),
        "bad_files": list_bad_files(image_sets, decoded),
    }


def _counts(split: Split) -> dict[str, Any]:
    class_names = split.image_set.class_names
    per_class = np.bincount(split.labels, minlength=len(class_names)).tolist()
    return {"num_images": len(split), "per_class": dict(zip(class_names, per_class, strict=True))}


def list_bad_files(image_sets: Mapping[str, ImageSet], decoded: Mapping[str, Decoded]) -> list[dict[str, str]]:
    """[{"path", "reason"}] of the images that cannot be decoded."""
    return [
        {"path": image_sets[name].name(i), "reason": reason}
        for name, of_set in decoded.items()
        for i, reason in of_set.bad.items()
    ]


def check_bad_fraction(config: DataConfig, image_sets: Mapping[str, ImageSet], decoded: Mapping[str, Decoded]) -> None:
    """Raises BadDataError where more than data.max_bad_fraction of all images cannot be decoded."""
    bad, total = list_bad_files(image_sets, decoded), sum(map(len, image_sets.values()))
    if len(bad) <= config.max_bad_fraction * total:
        return
    shown = [f"  {file['path']}: {file['reason']}" for file in bad[:SHOWN]]
    records = [str(of_set.record) for of_set in decoded.values() if of_set.bad]
    more = [f"  and {len(bad) - SHOWN:,} more"] if len(bad) > SHOWN else []
    advice = (
        f"By their position in the sorted listing, all are in {' and '.join(records)}. "
        f"Repair or remove them, or allow that many: data.max_bad_fraction={_rounded_up(len(bad) / total)}"
    )
    head = (
        f"{len(bad):,} of {total:,} images are unreadable, more than data.max_bad_fraction={config.max_bad_fraction:g}:"
    )
    raise BadDataError("\n".join([head, *shown, *more, advice]))


def check_classes(splits: list[Split]) -> None:
    """Raises BadDataError where a split, or a class in train, has no image that can be decoded."""
    for split in splits:
        if len(split) == 0:
            raise BadDataError(f"the {split.name} split has no readable image. Repair its images, or remove it")
    train = splits[0]
    class_names = train.image_set.class_names
    missing = [class_names[c] for c in np.flatnonzero(np.bincount(train.labels, minlength=len(class_names)) == 0)]
    if missing:
        raise BadDataError(
            f"no readable training image is left of {len(missing)} classes: {', '.join(missing[:SHOWN])}. "
            "Add images, or remove these classes"
        )


def _rounded_up(fraction: float) -> float:
    return min(1.0, int(fraction * 1000 + 1) / 1000)
