"""From a DataConfig to splits of decoded images that the processes of a machine share.

Read `build_data`; every step of it is one file of this folder. Nothing here imports torch at its top:
decoding processes import this package, and must start fast.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from distcls.config import DataConfig
from distcls.data.byte_size import parse_size
from distcls.data.cache_folder import cache_folder
from distcls.data.data_report import build_report, check_bad_fraction, check_classes
from distcls.data.decoding import BadImageError, Decoding, decode
from distcls.data.image_set import ImageSet, digest
from distcls.data.native_size import choose_decoding
from distcls.data.parallel_decode import Progress
from distcls.data.pixel_cache import Decoded, open_pixels
from distcls.data.sources import DATASETS, open_image_sets
from distcls.data.split import Data, Split, split_without_bad
from distcls.data.splits import cut_splits

__all__ = ["DATASETS", "BadImageError", "Data", "Decoding", "ImageSet", "Processes", "Split", "build_data", "decode"]


class Processes(Protocol):
    """What building data needs to know about the processes of a run."""

    @property
    def is_local_main(self) -> bool:
        """True in one process of each machine."""
        ...

    def wait_for_everyone(self) -> None:
        """Returns when all processes have called it."""
        ...


def build_data(config: DataConfig, processes: Processes, progress: Progress | None = None) -> Data:
    """Opens, decodes, checks and splits the images; all processes of a run call it together and get the same.

    progress(images done, images in all) is called in the one process per machine that decodes, once per
    image set. Raises UsageError, MissingInputError, BadDataError and DiskError, each saying what to do.
    """
    image_sets = _open_once_per_machine(config, processes)
    decoding = choose_decoding(config, image_sets["train"])
    decoded = {
        name: _decode(image_set, decoding, config, processes, progress) for name, image_set in image_sets.items()
    }
    check_bad_fraction(config, image_sets, decoded)
    cuts = cut_splits({name: image_set.labels for name, image_set in image_sets.items()}, config)
    splits = {
        name: split_without_bad(name, image_sets[source], rows, decoded[source].bad, decoded[source].pixels, decoding)
        for name, (source, rows) in cuts.items()
    }
    check_classes(list(splits.values()))
    return Data(
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        class_names=image_sets["train"].class_names,
        decoding=decoding,
        fingerprint=_fingerprint(image_sets, splits),
        report=build_report(config, list(splits.values()), image_sets, decoded),
    )


def _open_once_per_machine(config: DataConfig, processes: Processes) -> dict[str, ImageSet]:
    """One process of each machine goes first: it alone downloads, and unpacks what the others then map."""
    if processes.is_local_main:
        image_sets = open_image_sets(config)
        processes.wait_for_everyone()
        return image_sets
    processes.wait_for_everyone()
    return open_image_sets(dataclasses.replace(config, download=False))


def _decode(
    image_set: ImageSet, decoding: Decoding, config: DataConfig, processes: Processes, progress: Progress | None
) -> Decoded:
    return open_pixels(
        image_set,
        decoding,
        parse_size(config.cache),
        cache_folder(config),
        is_builder=processes.is_local_main,
        barrier=processes.wait_for_everyone,
        progress=progress,
    )


def _fingerprint(image_sets: dict[str, ImageSet], splits: dict[str, Split]) -> str:
    sets = [f"{name} {image_set.fingerprint()}".encode() for name, image_set in image_sets.items()]
    rows = [part for name, split in splits.items() for part in (name.encode(), split.rows)]
    return digest(image_sets["train"].class_names, *sets, *rows)
