"""Reports what is in the data, for data_report.json and for whoever has to repair it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distcls.config.settings import DataConfig
from distcls.config.wording import count
from distcls.data.cache.pixels import Decoded
from distcls.data.decoding.decode import Decoding
from distcls.data.exclusion import Exclusion
from distcls.data.inspection.examine import Inspected
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import Groups, ImageSet
from distcls.data.split import Split
from distcls.data.splitting.groups import describe_groups, group_warnings
from distcls.errors import BadDataError, some_of

SHOWN = 10  # bad images in an error message
SHOWN_NAMES = 3  # of images that changed
CONTENT_CHANGED = "no image was added or removed, but the contents of some files, or their labels, have changed"
FEW_TO_LEARN = 5  # images in a class
FEW_TO_MEASURE = 30  # images in a split


def build_report(
    config: DataConfig,
    decoding: Decoding,
    splits: list[Split],
    image_sets: Mapping[str, ImageSet],
    decoded: Mapping[str, Decoded],
    excluded: Exclusion,
    groups: Mapping[str, Groups],
) -> dict[str, Any]:
    """Return counts per split and class, groups, ignored, bad and excluded files, animations and warnings, for JSON."""
    folders = [image_set for image_set in image_sets.values() if isinstance(image_set, FolderSet)]
    return {
        "name": config.name,
        "root": config.root,
        "num_images": sum(map(len, image_sets.values())),
        "image_size": decoding.image_size,
        "resize": decoding.resize,
        "bytes_on_disk": sum(int(folder.sizes.clip(0).sum()) for folder in folders),
        "bytes_decoded": sum(
            split.pixels.nbytes for split in splits if split.pixels is not None and split.name in image_sets
        ),
        "splits": {split.name: count_images(split) for split in splits},
        "groups": describe_groups(config, groups, splits),
        "warnings": [*excluded.warnings(), *group_warnings(config, groups), *too_little(splits)],
        "num_ignored_files": sum(folder.num_ignored for folder in folders),
        "num_excluded": len(excluded),
        "num_animations": sum(of_set.num_animations for of_set in decoded.values()),
        "bad_files": list_bad_files(image_sets, decoded),
    }


def count_images(split: Split) -> dict[str, Any]:
    """Return the number of a split's images, and of each class's."""
    class_names = split.image_set.class_names
    per_class = np.bincount(split.labels, minlength=len(class_names)).tolist()
    return {"num_images": len(split), "per_class": dict(zip(class_names, per_class, strict=True))}


def list_bad_files(
    image_sets: Mapping[str, ImageSet], decoded: Mapping[str, Decoded] | Mapping[str, Inspected]
) -> list[dict[str, str]]:
    """Return [{"path", "reason"}] of the images that cannot be decoded."""
    return [
        {"path": image_sets[name].name(i), "reason": reason}
        for name, of_set in decoded.items()
        for i, reason in of_set.bad.items()
    ]


def check_bad_fraction(config: DataConfig, image_sets: Mapping[str, ImageSet], decoded: Mapping[str, Decoded]) -> None:
    """Raise BadDataError if more than data.max_bad_fraction of all images cannot be decoded."""
    bad, total = list_bad_files(image_sets, decoded), sum(map(len, image_sets.values()))
    head = too_many_bad(config, len(bad), total)
    if head is None:
        return
    shown = [f"  {file['path']}: {file['reason']}" for file in bad[:SHOWN]]
    more = [f"  and {len(bad) - SHOWN:,} more: distcls check lists them all"] if len(bad) > SHOWN else []
    raise BadDataError("\n".join([f"{head}:", *shown, *more, how_to_go_on(len(bad), total)]))


def changed_images(old: dict[str, list], new: dict[str, list]) -> list[str]:
    """Return lines that say which images were added or removed or changed splits, from two versions of splits.json."""
    if any(isinstance(image, int) for images in (*old.values(), *new.values()) for image in images[:1]):  # positions
        counts = [" ".join(f"{name} {len(images):,}" for name, images in lists.items()) for lists in (old, new)]
        if counts[0] == counts[1]:
            return [CONTENT_CHANGED]
        return [f"it had {counts[0]} images, now it has {counts[1]}"]
    before, after = ({image: name for name, images in lists.items() for image in images} for lists in (old, new))
    moved = [image for image in before.keys() & after.keys() if before[image] != after[image]]
    kinds = (("gone", before.keys() - after.keys()), ("new", after.keys() - before.keys()), ("in another split", moved))
    lines = []
    for what, images in kinds:
        if images:
            some = some_of(sorted(images), SHOWN_NAMES)
            lines.append(f"{count(len(images), 'image')} {_are(len(images))} {what}: {some}")
    if len(lines) > 1 and moved:
        lines[-1] += " (when the images change, distcls cuts its splits anew)"
    return lines or [CONTENT_CHANGED]


def too_many_bad(config: DataConfig, num_bad: int, total: int) -> str | None:
    """Return the problem if more than data.max_bad_fraction of all images are bad, else None."""
    if num_bad <= config.max_bad_fraction * total:
        return None
    limit = f"data.max_bad_fraction={config.max_bad_fraction:g}"
    return f"{num_bad:,} of {count(total, 'image')} {_are(num_bad)} unreadable, more than {limit}"


def how_to_go_on(num_bad: int, total: int) -> str:
    """Return the advice about too many bad images."""
    these = "it" if num_bad == 1 else "them"
    return f"Repair or remove {these}, or allow that many: data.max_bad_fraction={_rounded_up(num_bad / total)}"


def check_classes(splits: list[Split], excluded: Exclusion) -> None:
    """Raise BadDataError if a split, or a class in train, has no image that can be decoded and is not excluded."""
    if problem := nothing_to_learn(splits, excluded):
        raise BadDataError(problem)


def nothing_to_learn(splits: list[Split], excluded: Exclusion) -> str | None:
    """Return the problem if a split, or a class in train, has no image left to use, else None."""
    fewer = ", or exclude fewer images (data.exclude)" if len(excluded) else ""
    for split in splits:
        if len(split) == 0:
            left = " left" if fewer else ""
            return f"the {split.name} split has no readable image{left}. Repair its images, or remove it{fewer}"
    counts = count_images(splits[0])["per_class"]
    missing = [name for name, number in counts.items() if number == 0]
    if not missing:
        return None
    return (
        f"no readable training images in {count(len(missing), 'class')}: {some_of(missing, SHOWN)}. "
        f"Add images, or remove {'this class' if len(missing) == 1 else 'these classes'}{fewer}"
    )


def too_little(splits: list[Split]) -> list[str]:
    """Return a sentence for each class or split that has too few images to learn from or to measure with."""
    counts = count_images(splits[0])["per_class"]
    small = sorted((number, name) for name, number in counts.items() if 0 < number < FEW_TO_LEARN)
    found = []
    if small:
        number, name = small[0]
        others = f", and {_more_classes(len(small) - 1)} fewer than {FEW_TO_LEARN}" if len(small) > 1 else ""
        found.append(f"{name} has {count(number, 'training image')}{others}: hard to learn from")
    for split in splits[1:]:
        worth = split.num_groups or len(split)  # another image of a group says little that is new
        if 0 < worth < FEW_TO_MEASURE:
            images = count(len(split), "image")
            things = images if split.num_groups is None else f"{count(worth, 'group')} ({images})"
            each = "which is all" if worth == 1 else f"each worth {1 / worth:.0%}"
            found.append(f"{split.name} has {things}, {each} of its accuracy: too few to measure reliably")
    for split in splits[1:]:
        absent = [name for name, number in count_images(split)["per_class"].items() if number == 0]
        if absent and len(split):
            classes, these = count(len(absent), "class"), "it" if len(absent) == 1 else "them"
            found.append(
                f"{split.name} has no images of {classes} ({some_of(absent, SHOWN)}): it says nothing about {these}"
            )
    if "val" not in {split.name for split in splits}:
        found.append("there is no val split, so the last weights are kept instead of the best")
    return found


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _more_classes(number: int) -> str:
    return f"{count(number, 'more class')} {'has' if number == 1 else 'have'}"


def _rounded_up(fraction: float) -> float:
    return min(1.0, int(fraction * 1000 + 1) / 1000)
