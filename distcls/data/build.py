"""Turns a DataConfig into splits of decoded images that the processes of a machine share.

Start with `build_data`; each of its steps is a file in one of this folder's rooms.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from contextlib import nullcontext
from typing import Protocol, TypeVar

from distcls.config.settings import DataConfig, RandomResizedCropConfig
from distcls.data.cache.folder import cache_folder
from distcls.data.cache.handover import handed_over, taken_over
from distcls.data.cache.pixels import Decoded, Limits, open_pixels
from distcls.data.decoding.decode import Decoding
from distcls.data.decoding.native_size import choose_decoding
from distcls.data.decoding.parallel import OnProgress
from distcls.data.decoding.random_crop import RandomCrop
from distcls.data.exclusion import find_excluded
from distcls.data.inspection.report import build_report, check_bad_fraction, check_classes
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import ArraySet, ImageSet, digest
from distcls.data.split import Data, Split, split_without
from distcls.data.splitting.cut import cut_splits
from distcls.data.splitting.groups import find_groups, forget_groups
from distcls.errors import UsageError, some_of

T = TypeVar("T")


class BuildingProcesses(Protocol):
    """The part of cluster.processes.Processes that building data needs, which can be had without torch."""

    @property
    def is_local_main(self) -> bool:
        """True in exactly one process per machine."""
        ...

    def wait_for_everyone(self) -> None:
        """Return once every process has called it."""
        ...

    def from_all(self, value: T) -> list[T]:
        """Return the value each process passed, by rank."""
        ...


class OneProcess:
    """A run that is not distributed."""

    is_local_main: bool = True

    def wait_for_everyone(self) -> None:
        """Return at once: there is nobody to wait for."""

    def from_all(self, value: T) -> list[T]:
        """Return a list with just this value."""
        return [value]


def build_data(
    config: DataConfig,
    processes: BuildingProcesses,
    progress: OnProgress | None = None,
    crop: RandomResizedCropConfig | None = None,
    least_classes: int = 2,
) -> Data:
    """Open, decode, check and split the images. All processes of a run call this together and get the same result.

    progress(images done, total images) is called in the one process per machine that decodes, for each image set
    and size. crop: the random crops used in training, which determine how training images are decoded; if None, all
    splits are decoded as evaluation sees them. least_classes: 1 is enough if nothing is to be learned.
    Raises UsageError, MissingInputError, BadDataError and DiskError, each saying what to do.
    """
    image_sets = _open_once_per_machine(config, processes, least_classes)
    prints = {name: image_set.fingerprint() for name, image_set in image_sets.items()}
    _refuse_differences(processes, prints, f"{sum(map(len, image_sets.values())):,} images")
    excluded = find_excluded(config, image_sets)
    decoding = choose_decoding(config, image_sets["train"])
    random_crop = crop and RandomCrop.of(decoding, crop)
    labels = {name: image_set.labels for name, image_set in image_sets.items()}
    groups = find_groups(config, image_sets)
    cuts = cut_splits(labels, config, image_sets["train"].class_names if least_classes > 1 else (), groups)
    forget_groups(image_sets)
    decodings = dict.fromkeys(cuts, decoding)
    if random_crop is not None:
        decodings["train"] = _decoding_to_crop_from(image_sets["train"], random_crop, decoding, config)
    decoded: dict[tuple[str, Decoding], Decoded] = {}
    for name, (source, _) in reversed(cuts.items()):  # train last: the other splits may already have checked its set
        way = source, decodings[name]
        if way not in decoded:
            checked = decoded.get((source, decoding))
            decoded[way] = _decode(image_sets[source], way[1], decoding, checked, config, processes, progress)
    found = _found_by_set(decoded)
    check_bad_fraction(config, image_sets, found)
    splits = {}
    for name, (source, rows) in cuts.items():
        left_out, of_set = {*found[source].bad, *excluded.of(source)}, decoded[source, decodings[name]]
        splits[name] = split_without(
            left_out,
            name,
            image_sets[source],
            rows,
            of_set.pixels,
            decodings[name],
            of_set.in_memory,
            groups.get(source),
        )
    splits["train"].random_crop = random_crop
    check_classes(list(splits.values()), excluded)
    data = Data(
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        class_names=image_sets["train"].class_names,
        decoding=decoding,
        fingerprint=_fingerprint(image_sets["train"].class_names, prints, splits, found),
        listing_fingerprint=_fingerprint(image_sets["train"].class_names, prints, splits, {}),
        set_fingerprints=tuple(_of_set(listed, found.get(name)) for name, listed in prints.items()),
        report=build_report(config, decoding, list(splits.values()), image_sets, found, excluded, groups),
    )
    data.report["split_fingerprints"] = {
        name: _of_split(splits[name], prints[source], found[source]) for name, (source, _) in cuts.items()
    }
    bad = [file["path"] for file in data.report["bad_files"]]
    some = f" (unreadable: {some_of(bad, 3)})" if bad else ""
    _refuse_differences(
        processes, (data.fingerprint, decoding, bad), f"{sum(map(len, data.splits())):,} readable images{some}"
    )
    return data


def _open_once_per_machine(config: DataConfig, processes: BuildingProcesses, least_classes: int) -> dict[str, ImageSet]:
    """Let one process per machine go first: only it downloads, unpacks and asks for each file's size and times.

    It hands its list of files over to the others. Images that have no files of their own are in the store, where
    the others map them, or in a data set of the user's own, which each process opens.
    """
    this = socket.gethostname(), os.getcwd(), config  # paths may be relative
    is_alone = processes.from_all(this).count(this) == 1
    if processes.is_local_main:
        image_sets = open_image_sets(config, least_classes)
        is_list = not is_alone and all(isinstance(image_set, FolderSet) for image_set in image_sets.values())
        with handed_over(image_sets, cache_folder(config)) if is_list else nullcontext() as path:
            processes.from_all((this, path))
            processes.wait_for_everyone()
        return image_sets
    offers = processes.from_all((this, None))
    image_sets = taken_over(path for whose, path in offers if path is not None and whose == this)
    processes.wait_for_everyone()
    return image_sets or open_image_sets(dataclasses.replace(config, download=False), least_classes)


def _refuse_differences(processes: BuildingProcesses, seen_here: object, in_words: str) -> None:
    """Raise UsageError if the processes see different images, as when each machine has its own copy of the data."""
    seen = processes.from_all((seen_here, f"{in_words} on {socket.gethostname()}"))
    for rank, (there, words) in enumerate(seen):
        if there != seen[0][0]:
            raise UsageError(
                f"the processes see different images: process 0 {seen[0][1]}, process {rank} {words}; if the counts "
                "match, their names, contents or labels differ. Copy the same files to all machines, for example with "
                "rsync -a --checksum --delete."
            )


def _decoding_to_crop_from(
    image_set: ImageSet, random_crop: RandomCrop, decoding: Decoding, config: DataConfig
) -> Decoding:
    """Return what training crops are cut from: squares of data.decode_size, unchanged square arrays, or whole images.

    Raises UsageError if data.decode_size is smaller than the images that the model sees.
    """
    if config.decode_size is not None:
        if config.decode_size < decoding.shape[0]:
            raise UsageError(
                f"data.decode_size={config.decode_size} is smaller than the {decoding.shape[0]} pixels that the model "
                "sees, so images would have to be enlarged: make it at least that large, set data.image_size, or "
                "leave it out"
            )
        return dataclasses.replace(decoding, image_size=config.decode_size, crop_fraction=1.0)
    if isinstance(image_set, ArraySet) and image_set.images.shape[1] == image_set.images.shape[2]:
        return dataclasses.replace(decoding, image_size=image_set.images.shape[1], crop_fraction=1.0)
    return random_crop


def _decode(
    image_set: ImageSet,
    decoding: Decoding,
    eval_decoding: Decoding,
    checked: Decoded | None,
    config: DataConfig,
    processes: BuildingProcesses,
    progress: OnProgress | None,
) -> Decoded:
    """Decode an image set. Sets that training crops straight from files are decoded once too, to find bad images."""
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
    """Return the findings for each image set, merged over the sizes it was decoded to."""
    found: dict[str, Decoded] = {}
    for (name, _), of_set in reversed(decoded.items()):
        found[name] = dataclasses.replace(of_set, bad={**of_set.bad, **(found[name].bad if name in found else {})})
    return found


def _fingerprint(
    class_names: list[str], prints: dict[str, str], splits: dict[str, Split], decoded: dict[str, Decoded]
) -> str:
    """Return a digest of the image sets, of which image is in which split, and of all decoded files' bytes.

    prints: the fingerprint of each image set.
    """
    sets = [f"{name} {_of_set(listed, decoded.get(name))}".encode() for name, listed in prints.items()]
    rows = [part for name, split in splits.items() for part in (name.encode(), split.rows)]
    return digest(class_names, *sets, *rows)


def _of_set(listed: str, decoded: Decoded | None) -> str:
    if decoded is None or decoded.digests is None:
        return listed
    content = decoded.digests.copy()
    content[list(decoded.bad)] = 0  # bad images are skipped, so their content does not matter
    return digest([], listed.encode(), content)


def _of_split(split: Split, listed: str, decoded: Decoded) -> str:
    """Return a digest of one split's images and labels, independent of the other splits."""
    if decoded.digests is None:
        return digest(split.image_set.class_names, listed.encode(), split.rows)
    return digest(split.image_set.class_names, split.labels, decoded.digests[split.rows])
