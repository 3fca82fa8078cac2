"""Decodes every image once and keeps the pixels in the store, in one file that all processes of a machine share."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.cache.arrays import write_array
from distcls.data.cache.byte_size import parse_size
from distcls.data.cache.folder import explaining_disk_errors
from distcls.data.cache.journal import Chunk, Journal
from distcls.data.cache.mapped_file import MappedFile
from distcls.data.cache.store import (
    About,
    Parts,
    build_entry,
    entry_path,
    has_parts,
    read_entry,
    remove_unused,
    update_entry,
)
from distcls.data.decoding.decode import DECODER, BadImageError, Decoding
from distcls.data.decoding.parallel import DecodeJob, HashJob, Progress, checked_image, cut_chunks, do_all, stamp_of
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import CONTENT_BYTES, ArraySet, ImageSet
from distcls.errors import DiskError

MOST_STAMPS = 20
"""Copies of a folder that an entry remembers: it is believed for them without reading their files again."""


@dataclass(frozen=True)
class Limits:
    """How many bytes of decoded images of a set are kept."""

    memory: int
    disk: int = 0

    @staticmethod
    def of(config: DataConfig) -> Limits:
        """As the config says. Raises UsageError."""
        return Limits(parse_size(config.cache), parse_size(config.disk_cache, "data.disk_cache"))

    def keep(self, num_bytes: int) -> bool:
        """Whether so many are kept, in memory or on disk."""
        return num_bytes <= max(self.memory, self.disk)


@dataclass
class Decoded:
    """What decoding a whole image set gave."""

    pixels: np.ndarray | None
    """uint8 (N, image_size, image_size, 3), shared by the processes of the machine; None: too large, read files."""
    in_memory: bool
    """Whether they are few enough to stay in memory."""
    bad: dict[int, str]
    """Index and reason of each bad image; its pixels are 0."""
    num_animations: int = 0
    """Images that are the first frame of several."""
    digests: np.ndarray | None = None
    """uint8 (N, 16), content_digest of each file that is not bad; None where images are not in files of their own."""


def open_pixels(
    image_set: ImageSet,
    decoding: Decoding,
    limits: Limits,
    cache_dir: Path,
    *,
    is_builder: bool,
    barrier: Callable[[], None],
    progress: Progress | None = None,
) -> Decoded:
    """Decodes an image set, or finds it decoded by an earlier run; every process calls it, one per machine builds.

    Images that are too large for both limits are decoded too, once, to find the bad ones, but not kept.
    Raises DiskError where cache_dir cannot be written.
    """
    shape = (len(image_set), *decoding.shape)
    in_memory, keeps_pixels = math.prod(shape) <= limits.memory, limits.keep(math.prod(shape))
    if isinstance(image_set, ArraySet) and (not keeps_pixels or image_set.images.shape == shape):
        # Nothing to decode. Batches are taken from them as from a table of pixels, so they must lie in order.
        return Decoded(np.require(image_set.images, requirements="C") if keeps_pixels else None, in_memory, {})
    entry = _Entry(image_set, decoding, cache_dir, keeps_pixels)
    if is_builder:
        with explaining_disk_errors(entry.path.parent):
            entry.ensure(progress)
    barrier()
    about = read_entry(entry.path)
    if about is None:
        raise DiskError(f"what was decoded in {entry.path} is gone: did somebody empty the folder? Run again.")
    bad = {int(i): reason for i, reason in about["bad"].items()}
    pixels = MappedFile(str(entry.path / "pixels"), shape).open() if keeps_pixels else None
    return Decoded(pixels, in_memory, bad, about["num_animations"], entry.digests())


def keep_findings(
    image_set: ImageSet,
    decoding: Decoding,
    limits: Limits,
    cache_dir: Path,
    found: Decoded,
) -> None:
    """Spares a run that will read files its search for the bad ones: `distcls check` has just decoded them all."""
    if isinstance(image_set, ArraySet) or limits.keep(len(image_set) * math.prod(decoding.shape)):
        return
    entry = _Entry(image_set, decoding, cache_dir, keeps_pixels=False)

    def write(journal: Journal) -> tuple[Parts, About]:
        return entry.write_findings(journal, found.bad, found.num_animations, found.digests)

    with contextlib.suppress(OSError):  # then the run decodes them again
        build_entry(entry.path, write, lambda: False)


@dataclass
class _Entry:
    """What is kept of one image set: the files `digests` and, if they are kept, `pixels`.

    about.json adds {"bad", "num_animations", "stamps"}: the last are those of all folders that it was true for.
    """

    image_set: ImageSet
    decoding: Decoding
    cache_dir: Path
    keeps_pixels: bool

    def __post_init__(self) -> None:
        self.path = entry_path(self.cache_dir, self._key())
        self.bytes_per_image = math.prod(self.decoding.shape)
        self.stamp = stamp_of(self.image_set)

    def _key(self) -> str:
        modified = self.image_set.modified if isinstance(self.image_set, FolderSet) else ""
        how = astuple(self.decoding) if self.keeps_pixels else self.decoding.float_range
        return hashlib.sha256(repr((self.image_set.fingerprint(), modified, how, *DECODER)).encode()).hexdigest()

    def digests(self) -> np.ndarray | None:
        """See Decoded."""
        if not isinstance(self.image_set, FolderSet):
            return None
        return np.fromfile(self.path / "digests", np.uint8).reshape(-1, CONTENT_BYTES)

    # Finding ---------------------------------------------------------------------------------------

    def ensure(self, progress: Progress | None) -> None:
        """Build it unless an earlier run did. Raises OSError and DiskError."""
        if not self.is_current(progress):
            build_entry(self.path, lambda journal: self.write(journal, progress), lambda: self.is_current(None))
        remove_unused(self.path.parent)

    def is_current(self, progress: Progress | None) -> bool:
        """True if it is whole and of these very files. Also false when an image that was bad is not any more."""
        about = read_entry(self.path)
        if about is None or not all(self._is_bad(int(i)) for i in about["bad"]):
            return False
        if self.stamp not in about["stamps"]:
            if not self._has_content(progress):
                return False
            update_entry(self.path, {**about, "stamps": [*about["stamps"], self.stamp][-MOST_STAMPS:]})
        return True

    def _is_bad(self, i: int) -> bool:
        try:
            checked_image(self.image_set, i, self.decoding)
        except (BadImageError, OSError):
            return True
        return False

    def _has_content(self, progress: Progress | None) -> bool:
        """True if every image that was decoded has still the bytes it had then. Reads all files."""
        expected = self.digests()
        if expected is None or not isinstance(self.image_set, FolderSet):
            return True
        for start, digests in do_all(HashJob(self.image_set, self.decoding), progress):
            found = np.frombuffer(digests, np.uint8).reshape(-1, CONTENT_BYTES)
            of_chunk = expected[start : start + len(found)]
            if (found != of_chunk)[of_chunk.any(1)].any():
                return False
        return True

    # Building --------------------------------------------------------------------------------------

    def write(self, journal: Journal, progress: Progress | None) -> tuple[Parts, About]:
        """Decodes into the folder of the journal, which says what a build that was killed has done already.

        Checksums say which of that has come to the disk. OSError where the disk does not let it.
        """
        chunks = self._decode(journal, progress)
        bad = {i: reason for chunk in chunks for i, reason in chunk.bad.items()}
        digests = np.frombuffer(bytes.fromhex("".join(chunk.digests for chunk in chunks)), np.uint8)
        num_animations = sum(chunk.num_animations for chunk in chunks)
        parts, about = self.write_findings(journal, bad, num_animations, digests)
        if self.keeps_pixels:
            parts["pixels"] = [self._part(chunk) for chunk in chunks]
        return parts, about

    def write_findings(
        self, journal: Journal, bad: dict[int, str], num_animations: int, digests: np.ndarray | None
    ) -> tuple[Parts, About]:
        """What is kept in any case."""
        content = digests if digests is not None else np.zeros((len(self.image_set), CONTENT_BYTES), np.uint8)
        parts = {"digests": write_array(journal.folder / "digests", content)}
        return parts, {"bad": bad, "num_animations": num_animations, "stamps": [self.stamp]}

    def _decode(self, journal: Journal, progress: Progress | None) -> list[Chunk]:
        """All chunks of the set, in order."""
        pixels = journal.folder / "pixels"
        job = DecodeJob(self.image_set, self.decoding, pixels if self.keeps_pixels else None)
        if self.keeps_pixels:
            self._make_room(pixels)
        earlier = {(chunk.start, chunk.stop): chunk for chunk in journal.chunks()}
        done = {place: chunk for place, chunk in earlier.items() if self._is_done(pixels, chunk)}
        for chunk in do_all(job, progress, set(done)):
            journal.add(chunk)
            done[chunk.start, chunk.stop] = chunk
        return [done[place] for place in cut_chunks(job)]

    def _is_done(self, pixels: Path, chunk: Chunk) -> bool:
        """True if its pixels have come to the disk, and are those of the files that are there now."""
        if self.keeps_pixels and not has_parts(pixels, [self._part(chunk)], chunk.start * self.bytes_per_image):
            return False
        if chunk.stamp == self.stamp or not isinstance(self.image_set, FolderSet):
            return True
        return HashJob(self.image_set, self.decoding).do_chunk(chunk.start, chunk.stop)[1].hex() == chunk.digests

    def _part(self, chunk: Chunk) -> tuple[int, int]:
        return (chunk.stop - chunk.start) * self.bytes_per_image, chunk.checksum

    def _make_room(self, pixels: Path) -> None:
        """The file at its full size, its blocks still to be written. Raises DiskError where they would not fit."""
        pixels.touch()
        size, folder = len(self.image_set) * self.bytes_per_image, self.path.parent
        needed = size - pixels.stat().st_blocks * 512
        if needed > shutil.disk_usage(folder).free:
            remove_unused(folder, abandoned_after=0)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise DiskError(
                f"the decoded images take {needed / 1e9:.2f} GB more in {folder}, where {free / 1e9:.2f} GB are "
                "free. Name a folder with more space, data.cache_dir=DIR, or read the image files instead: "
                "data.cache=0 data.disk_cache=0"
            )
        os.truncate(pixels, size)
