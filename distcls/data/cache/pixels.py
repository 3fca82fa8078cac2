"""Decodes every image once and keeps the pixels in one file that all processes of a machine share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.cache.byte_size import parse_size
from distcls.data.cache.folder import explaining_disk_errors, oldest_in_use
from distcls.data.cache.journal import Chunk, Journal, checksum, open_journal
from distcls.data.cache.mapped_file import MappedFile
from distcls.data.decoding.decode import DECODER, BadImageError, Decoding
from distcls.data.decoding.parallel import DecodeJob, Progress, checked_image, cut_chunks, do_all
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import ArraySet, ImageSet
from distcls.errors import DiskError
from distcls.files.atomic import fsync


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
    cache = _PixelFile(image_set, decoding, cache_dir / "decoded", keeps_pixels)
    if is_builder and not cache.is_current():
        with explaining_disk_errors(cache.folder):
            cache.build(progress)
    barrier()
    record = cache.read_record()
    bad = {int(i): reason for i, reason in record["bad"].items()}
    pixels = MappedFile(str(cache.path), shape).open() if keeps_pixels else None
    return Decoded(pixels, in_memory, bad, record["num_animations"])


def keep_findings(
    image_set: ImageSet, decoding: Decoding, limits: Limits, cache_dir: Path, bad: dict[int, str], num_animations: int
) -> None:
    """Spares a run that will read files its search for the bad ones: `distcls check` has just decoded them all."""
    if isinstance(image_set, ArraySet) or limits.keep(len(image_set) * math.prod(decoding.shape)):
        return
    record = _PixelFile(image_set, decoding, cache_dir / "decoded", keeps_pixels=False)
    with contextlib.suppress(OSError):  # then the run decodes them again
        record.folder.mkdir(parents=True, exist_ok=True)
        record._write_record({"bad": bad, "num_animations": num_animations})


@dataclass
class _PixelFile:
    """A file of pixels, and the record beside it: {"size", "mtime_ns", "chunks", "bad", "num_animations"}.

    Where no pixels are kept, the record alone: {"bad", "num_animations"}.
    """

    image_set: ImageSet
    decoding: Decoding
    folder: Path
    keeps_pixels: bool

    def __post_init__(self) -> None:
        name = f"distcls-{self._key()}"
        self.path = self.folder / f"{name}.pixels"
        self.bytes_per_image = math.prod(self.decoding.shape)
        self.record_path = self.folder / f"{name}.json"

    def _key(self) -> str:
        modified = self.image_set.modified if isinstance(self.image_set, FolderSet) else ""
        how = astuple(self.decoding) if self.keeps_pixels else self.decoding.float_range
        return hashlib.sha256(repr((self.image_set.fingerprint(), modified, how, *DECODER)).encode()).hexdigest()

    def read_record(self) -> dict[str, Any]:
        return json.loads(self.record_path.read_text())

    def is_current(self) -> bool:
        """Whether an earlier run left it whole. Also false when an image that was bad is not any more."""
        try:
            record = self.read_record()
            if self.keeps_pixels and not self._has_the_right_bytes(record):
                return False
            os.utime(self.record_path)  # used: not to be forgotten yet
        except (OSError, ValueError, KeyError):
            return False
        return all(self._is_bad(int(i)) for i in record["bad"])

    def _has_the_right_bytes(self, record: dict[str, Any]) -> bool:
        """Reading it all takes seconds to minutes, so only where somebody copied or touched the file."""
        stat = self.path.stat()
        if stat.st_size != record["size"]:
            return False
        return stat.st_mtime_ns == record["mtime_ns"] or all(
            self._is_whole(self.path, *chunk) for chunk in record["chunks"]
        )

    def _is_whole(self, path: Path, start: int, stop: int, expected: int) -> bool:
        return checksum(path, start * self.bytes_per_image, (stop - start) * self.bytes_per_image) == expected

    def _is_bad(self, i: int) -> bool:
        try:
            checked_image(self.image_set, i, self.decoding)
        except (BadImageError, OSError):
            return True
        return False

    def build(self, progress: Progress | None) -> None:
        """Decodes into a file beside, makes it durable, and renames it; OSError where the disk does not let it.

        A build that was killed is gone on with: its journal tells what it had done, and checksums which of that
        has come to the disk.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove_unused(self.folder)
        with open_journal(self.folder / self.path.stem) as journal:
            chunks = self._decode(journal, progress)
            findings = {
                "bad": {i: reason for chunk in chunks for i, reason in chunk.bad.items()},
                "num_animations": sum(chunk.num_animations for chunk in chunks),
            }
            if not self.keeps_pixels:
                self._write_record(findings)
                return
            fsync(journal.pixels)
            if self.is_current():  # another run was faster and may have it mapped already: leave it in its place
                return
            stat = journal.pixels.stat()
            os.replace(journal.pixels, self.path)
            checksums = [(chunk.start, chunk.stop, chunk.checksum) for chunk in chunks]
            file = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "chunks": checksums}
            self._write_record({**file, **findings})

    def _decode(self, journal: Journal, progress: Progress | None) -> list[Chunk]:
        """All chunks of the set, in order."""
        job = DecodeJob(self.image_set, self.decoding, journal.pixels if self.keeps_pixels else None)
        if self.keeps_pixels:
            self._make_room(journal.pixels)
        done = {place: chunk for place, chunk in journal.chunks().items() if self._is_done(journal.pixels, chunk)}
        for chunk in do_all(job, progress, set(done)):
            journal.add(chunk)
            done[chunk.start, chunk.stop] = chunk
        return [done[place] for place in cut_chunks(job)]

    def _is_done(self, path: Path, chunk: Chunk) -> bool:
        return not self.keeps_pixels or self._is_whole(path, chunk.start, chunk.stop, chunk.checksum)

    def _make_room(self, path: Path) -> None:
        """The file at its full size, its blocks still to be written. Raises DiskError where they would not fit."""
        path.touch()
        size = len(self.image_set) * self.bytes_per_image
        needed, free = size - path.stat().st_blocks * 512, shutil.disk_usage(self.folder).free
        if needed > free:
            raise DiskError(
                f"the decoded images take {needed / 1e9:.2f} GB more in {self.folder}, where {free / 1e9:.2f} GB are "
                "free. Name a folder with more space, data.cache_dir=DIR, or read the image files instead: "
                "data.cache=0 data.disk_cache=0"
            )
        os.truncate(path, size)

    def _write_record(self, record: dict[str, Any]) -> None:
        with _file_beside(self.record_path) as building:
            building.write_text(json.dumps(record, indent=1))
            fsync(building)
            os.replace(building, self.record_path)


@contextlib.contextmanager
def _file_beside(final: Path) -> Iterator[Path]:
    """A temporary file on the same file system, gone at the end unless it was renamed."""
    temporary = final.with_name(f"{final.stem}.{secrets.token_hex(4)}.tmp")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    oldest = oldest_in_use()
    for path in folder.glob("distcls-*"):
        record = path.with_suffix(".json")
        last_use = max((file.stat().st_mtime for file in (path, record) if file.exists()), default=0.0)
        if last_use < oldest:
            path.unlink(missing_ok=True)
