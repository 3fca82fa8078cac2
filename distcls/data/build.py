"""From a DataConfig to splits of decoded images that the processes of a machine share.

Read `build_data`; every step of it is one file of this folder. Nothing here imports torch at its top:
decoding processes import this package, and must start fast.
"""

from __future__ import annotations

import dataclasses
import socket
from typing import Protocol, TypeVar

from distcls.config.settings import DataConfig, RandomResizedCropConfig
from distcls.data.cache.folder import cache_folder
from distcls.data.cache.pixels import Decoded, Limits, open_pixels
from distcls.data.decoding.decode import BadImageError, Decoding, decode
from distcls.data.decoding.native_size import choose_decoding
from distcls.data.decoding.parallel import Progress
from distcls.data.decoding.random_crop import RandomCrop
from distcls.data.inspection.report import build_report, check_bad_fraction, check_classes
from distcls.data.sources.datasets import DATASETS, open_image_sets
from distcls.data.sources.image_set import ArraySet, ImageSet, digest
from distcls.data.split import Data, Split, split_without_bad
from distcls.data.stratify import cut_splits
from distcls.errors import UsageError, some_of

__all__ = [
    "DATASETS",
    "BadImageError",
    "Data",
    "Decoding",
    "ImageSet",
    "OneProcess",
    "Processes",
    "Split",
    "build_data",
    "decode",
]

T = TypeVar("T")


class Processes(Protocol):
    """What building data needs to know about the processes of a run."""

    @property
    def is_local_main(self) -> bool:
        """True in one process of each machine."""
        ...

    def wait_for_everyone(self) -> None:
        """Returns when all processes have called it."""
        ...

    def from_all(self, value: T) -> list[T]:
        """What each process has given, by rank."""
        ...


class OneProcess:
    """A run that is not distributed."""

    is_local_main: bool = True

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""

    def from_all(self, value: T) -> list[T]:
        """A list of one."""
        return [value]


def build_data(
    config: DataConfig,
    processes: Processes,
    progress: Progress | None = None,
    crop: RandomResizedCropConfig | None = None,
    least_classes: int = 2,
) -> Data:
    """Opens, decodes, checks and splits the images; all processes of a run call it together and get the same.

    progress(images done, images in all) is called in the one process per machine that decodes, once per
    image set and size. crop: what training cuts out of its images, which decides how they are decoded; without
    it, all splits are as evaluation sees them. least_classes: 1 where nothing is learned.
    Raises UsageError, MissingInputError, BadDataError and DiskError, each saying what to do.
    """
    image_sets = _open_once_per_machine(config, processes, least_classes)
    prints = {name: image_set.fingerprint() for name, image_set in image_sets.items()}
    _refuse_differences(processes, prints, f"{sum(map(len, image_sets.values())):,} images")
    decoding = choose_decoding(config, image_sets["train"])
    random_crop = crop and RandomCrop.of(decoding, crop)
    cuts = cut_splits({name: image_set.labels for name, image_set in image_sets.items()}, config)
    decodings = dict.fromkeys(cuts, decoding)
    if random_crop is not None:
        decodings["train"] = _decoding_to_crop_from(image_sets["train"], random_crop, decoding, config)
    decoded: dict[tuple[str, Decoding], Decoded] = {}
    for name, (source, _) in reversed(cuts.items()):  # train last, so that what the others decode is checked already
        way = source, decodings[name]
        if way not in decoded:
            checked = decoded.get((source, decoding))
            decoded[way] = _decode(image_sets[source], way[1], decoding, checked, config, processes, progress)
    found = _found_by_set(decoded)
    check_bad_fraction(config, image_sets, found)
    splits = {}
    for name, (source, rows) in cuts.items():
        bad, of_set = found[source].bad, decoded[source, decodings[name]]
        splits[name] = split_without_bad(
            name, image_sets[source], rows, bad, of_set.pixels, decodings[name], of_set.in_memory
        )
    splits["train"].random_crop = random_crop
    check_classes(list(splits.values()))
    data = Data(
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        class_names=image_sets["train"].class_names,
        decoding=decoding,
        fingerprint=_fingerprint(image_sets, splits, found),
        listing_fingerprint=_fingerprint(image_sets, splits, {}),
        report=build_report(config, decoding, list(splits.values()), image_sets, found),
    )
    data.report["split_fingerprints"] = {
        name: _of_split(splits[name], found[source]) for name, (source, _) in cuts.items()
    }
    bad = [file["path"] for file in data.report["bad_files"]]
    some = f" (unreadable: {some_of(bad, 3)})" if bad else ""
    _refuse_differences(
        processes, (data.fingerprint, decoding, bad), f"{sum(map(len, data.splits())):,} readable images{some}"
    )
    return data


def _open_once_per_machine(config: DataConfig, processes: Processes, least_classes: int) -> dict[str, ImageSet]:
    """One process of each machine goes first: it alone downloads, and unpacks what the others then map."""
    if processes.is_local_main:
        image_sets = open_image_sets(config, least_classes)
        processes.wait_for_everyone()
        return image_sets
    processes.wait_for_everyone()
    return open_image_sets(dataclasses.replace(config, download=False), least_classes)


def _refuse_differences(processes: Processes, seen_here: object, in_words: str) -> None:
    """Each machine may have a copy of its own. Raises UsageError where they are not of the same images."""
    seen = processes.from_all((seen_here, f"{in_words} on {socket.gethostname()}"))
    for rank, (there, words) in enumerate(seen):
        if there != seen[0][0]:
            raise UsageError(
                f"the processes see different images: process 0 {seen[0][1]}, process {rank} {words}, or of other "
                "names, contents or labels. Copy the same files to all machines, as rsync -a --checksum --delete does."
            )


def _decoding_to_crop_from(
    image_set: ImageSet, random_crop: RandomCrop, decoding: Decoding, config: DataConfig
) -> Decoding:
    """What training crops are cut from: squares of data.decode_size, square arrays as they are, or the whole image."""
    if config.decode_size is not None:
        if config.decode_size < decoding.shape[0]:
            raise UsageError(
                f"data.decode_size={config.decode_size} is smaller than the {decoding.shape[0]} pixels that the model "
                "sees, which would be enlarged: make it as large or more, set data.image_size, or leave it out"
            )
        return dataclasses.replace(decoding, image_size=config.decode_size)
    if isinstance(image_set, ArraySet) and image_set.images.shape[1] == image_set.images.shape[2]:
        return dataclasses.replace(decoding, image_size=image_set.images.shape[1])
    return random_crop


def _decode(
    image_set: ImageSet,
    decoding: Decoding,
    eval_decoding: Decoding,
    checked: Decoded | None,
    config: DataConfig,
    processes: Processes,
    progress: Progress | None,
) -> Decoded:
    """Images that are cropped from their files are decoded too, once, to find the bad ones."""
    limits = Limits.of(config)
    if decoding.keeps_pixels:
        if checked is not None:
            return dataclasses.replace(checked, pixels=None)
        decoding, limits = eval_decoding, Limits(memory=0)
    return open_pixels(
        image_set,
        decoding,
        limits,
        cache_folder(config),
        is_builder=processes.is_local_main,
        barrier=processes.wait_for_everyone,
        progress=progress,
    )


def _found_by_set(decoded: dict[tuple[str, Decoding], Decoded]) -> dict[str, Decoded]:
    """What decoding each image set has shown, whatever the sizes it was decoded to."""
    found: dict[str, Decoded] = {}
    for (name, _), of_set in reversed(decoded.items()):
        found[name] = dataclasses.replace(of_set, bad={**of_set.bad, **(found[name].bad if name in found else {})})
    return found


def _fingerprint(image_sets: dict[str, ImageSet], splits: dict[str, Split], decoded: dict[str, Decoded]) -> str:
    """Of the sets, of which image is in which split, and of the bytes of all files that were decoded."""
    sets = [f"{name} {_of_set(image_set, decoded.get(name))}".encode() for name, image_set in image_sets.items()]
    rows = [part for name, split in splits.items() for part in (name.encode(), split.rows)]
    return digest(image_sets["train"].class_names, *sets, *rows)


def _of_set(image_set: ImageSet, decoded: Decoded | None) -> str:
    listed = image_set.fingerprint()
    if decoded is None or decoded.digests is None:
        return listed
    content = decoded.digests.copy()
    content[list(decoded.bad)] = 0  # nobody sees these
    return digest([], listed.encode(), content)


def _of_split(split: Split, decoded: Decoded) -> str:
    """Of the images of one split and their labels, whatever became of the others."""
    if decoded.digests is None:
        return digest(split.image_set.class_names, split.image_set.fingerprint().encode(), split.rows)
    return digest(split.image_set.class_names, split.labels, decoded.digests[split.rows])
