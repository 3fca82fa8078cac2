"""Decodes each image once and keeps the pixels in the store, in one file that all processes of a machine share."""

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

from distcls.config.byte_size import parse_size
from distcls.config.settings import DataConfig
from distcls.data.cache.arrays import write_array
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
from distcls.data.decoding.decode import DECODER, Decoding
from distcls.data.decoding.parallel import (
    DecodeJob,
    HashJob,
    OnProgress,
    checked_image,
    cut_chunks,
    do_all,
    noting_if_bad,
    stamp_of,
)
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import CONTENT_BYTES, ArraySet, ImageSet
from distcls.errors import DiskError

MOST_STAMPS = 20
"""The number of copies of a folder that an entry remembers; for these it is trusted without rereading the files."""


@dataclass(frozen=True)
class Limits:
    """The most bytes of decoded images of a set that are kept."""

    memory: int
    disk: int = 0

    @staticmethod
    def of(config: DataConfig) -> Limits:
        """Return the limits from the config."""
        return Limits(parse_size(config.cache), parse_size(config.disk_cache))

    def keep(self, num_bytes: int) -> bool:
        """True if this many bytes are kept, in memory or on disk."""
        return num_bytes <= max(self.memory, self.disk)


@dataclass
class Decoded:
    """The result of decoding a whole image set."""

    pixels: np.ndarray | None
    """uint8 (N, image_size, image_size, 3), shared by the machine's processes; None if too large: read the files."""
    in_memory: bool
    """True if the pixels are small enough to stay in memory."""
    bad: dict[int, str]
    """Index and reason of each bad image; its pixels are 0."""
    num_animations: int = 0
    """Images that are the first frame of several."""
    digests: np.ndarray | None = None
    """uint8 (N, 16), content_digest of each file that is not bad; None if images have no files of their own."""


def open_pixels(
    image_set: ImageSet,
    decoding: Decoding,
    limits: Limits,
    cache_dir: Path,
    *,
    is_builder: bool,
    barrier: Callable[[], None],
    progress: OnProgress | None = None,
) -> Decoded:
    """Decode an image set, unless an earlier run did. Every process calls this; one per machine does the work.

    Images too large for both limits are also decoded once, to find the bad ones, but not kept.
    Raises DiskError if cache_dir cannot be written.
    """
    shape = (len(image_set), *decoding.shape)
    in_memory, keeps_pixels = math.prod(shape) <= limits.memory, limits.keep(math.prod(shape))
    if isinstance(image_set, ArraySet) and (not keeps_pixels or image_set.images.shape == shape):
        # Nothing to decode. Batches are gathered from them as from a table of pixels, so they must be in C order.
        return Decoded(np.require(image_set.images, requirements="C") if keeps_pixels else None, in_memory, {})
    entry = _Entry(image_set, decoding, cache_dir, keeps_pixels)
    if is_builder:
        with explaining_disk_errors(entry.path.parent):
            entry.ensure(progress)
    barrier()
    about = read_entry(entry.path)
    if about is None:
        raise DiskError(f"the decoded images in {entry.path} are gone: did somebody empty the folder? Run again.")
    bad = {int(i): reason for i, reason in about["bad"].items()}
    pixels = MappedFile(str(entry.path / "pixels"), shape).open() if keeps_pixels else None
    return Decoded(pixels, in_memory, bad, about["num_animations"], entry.digests())


def keep_findings(
    image_set: ImageSet,
    decoding: Decoding,
    limits: Limits,
    cache_dir: Path,
    bad: dict[int, str],
    num_animations: int,
    digests: np.ndarray,
) -> None:
    """Save which images are bad, so that a run that reads files need not look for them after `distcls check` did."""
    if isinstance(image_set, ArraySet) or limits.keep(len(image_set) * math.prod(decoding.shape)):
        return
    entry = _Entry(image_set, decoding, cache_dir, keeps_pixels=False)

    def write(journal: Journal) -> tuple[Parts, About]:
        return entry.write_findings(journal, bad, num_animations, digests)

    with contextlib.suppress(OSError):  # if this fails, the run decodes them again
        build_entry(entry.path, write, lambda: False)


@dataclass
class _Entry:
    """One image set in the store: the files `digests` and, if pixels are kept, `pixels`.

    about.json adds {"bad", "num_animations", "stamps"}; stamps are those of all folders the entry was valid for.
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
        """Return Decoded.digests."""
        if not isinstance(self.image_set, FolderSet):
            return None
        return np.fromfile(self.path / "digests", np.uint8).reshape(-1, CONTENT_BYTES)

    # Finding ---------------------------------------------------------------------------------------

    def ensure(self, progress: OnProgress | None) -> None:
        """Build the entry unless an earlier run did. Raises OSError and DiskError."""
        if not self.is_current(progress):
            build_entry(self.path, lambda journal: self.write(journal, progress), lambda: self.is_current(None))
        remove_unused(self.path.parent)

    def is_current(self, progress: OnProgress | None) -> bool:
        """True if the entry is complete and for exactly these files, and every bad image is still bad."""
        about = read_entry(self.path)
        if about is None or not all(self._is_bad(int(i)) for i in about["bad"]):
            return False
        if self.stamp not in about["stamps"]:
            if not self._has_content(progress):
                return False
            update_entry(self.path, {**about, "stamps": [*about["stamps"], self.stamp][-MOST_STAMPS:]})
        return True

    def _is_bad(self, i: int) -> bool:
        bad: dict[int, str] = {}
        with noting_if_bad(i, bad):
            checked_image(self.image_set, i, self.decoding)
        return i in bad

    def _has_content(self, progress: OnProgress | None) -> bool:
        """True if every decoded image still has the bytes it had then. Reads all files."""
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

    def write(self, journal: Journal, progress: OnProgress | None) -> tuple[Parts, About]:
        """Decode into the journal's folder, resuming a killed build.

        Checksums tell which of its chunks reached the disk. Raises OSError if the disk fails.
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
        self, journal: Journal, bad: dict[int, str], num_animations: int, digests: np.ndarray
    ) -> tuple[Parts, About]:
        """Write what is kept even if the pixels are not: digests, bad images and the number of animations."""
        parts = {"digests": write_array(journal.folder / "digests", digests)}
        return parts, {"bad": bad, "num_animations": num_animations, "stamps": [self.stamp]}

    def _decode(self, journal: Journal, progress: OnProgress | None) -> list[Chunk]:
        """Decode what is missing, and return all chunks of the set in order."""
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
        """True if the chunk's pixels reached the disk and the files are unchanged since."""
        if self.keeps_pixels and not has_parts(pixels, [self._part(chunk)], chunk.start * self.bytes_per_image):
            return False
        if chunk.stamp == self.stamp or not isinstance(self.image_set, FolderSet):
            return True
        return HashJob(self.image_set, self.decoding).do_chunk(chunk.start, chunk.stop)[1].hex() == chunk.digests

    def _part(self, chunk: Chunk) -> tuple[int, int]:
        return (chunk.stop - chunk.start) * self.bytes_per_image, chunk.checksum

    def _make_room(self, pixels: Path) -> None:
        """Extend the file to its full size, without writing blocks. Raises DiskError if they would not fit."""
        pixels.touch()
        size, folder = len(self.image_set) * self.bytes_per_image, self.path.parent
        needed = size - pixels.stat().st_blocks * 512
        if needed > shutil.disk_usage(folder).free:
            remove_unused(folder, abandoned_after=0)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise DiskError(
                f"the decoded images need another {needed / 1e9:.2f} GB in {folder}, but only {free / 1e9:.2f} GB are "
                "free. Choose a folder with more space, data.cache_dir=DIR, or read the image files instead: "
                "data.cache=0 data.disk_cache=0"
            )
        os.truncate(pixels, size)
