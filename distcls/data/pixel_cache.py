"""Decodes every image once and keeps the pixels in one file that all processes of a machine share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distcls.data.cache_folder import explaining_disk_errors
from distcls.data.decoding import DECODER_VERSION, BadImageError, Decoding
from distcls.data.folder import FolderSet
from distcls.data.image_set import ArraySet, ImageSet
from distcls.data.mapped_file import MappedFile
from distcls.data.parallel_decode import DecodeJob, Findings, Progress, checked_image, decode_all

UNUSED_DAYS = 30  # every edit of an image folder leaves a file of up to data.cache behind: it goes after this time


@dataclass
class Decoded:
    """What decoding a whole image set gave."""

    pixels: np.ndarray | None
    """uint8 (N, image_size, image_size, 3), shared by the processes of the machine; None: too large, read files."""
    bad: dict[int, str]
    """Index and reason of each bad image; its pixels are 0."""
    record: Path | None
    """JSON file that lists the bad images; None where nothing had to be decoded."""
    num_animations: int = 0
    """Images that are the first frame of several."""


def open_pixels(
    image_set: ImageSet,
    decoding: Decoding,
    limit_bytes: int,
    cache_dir: Path,
    *,
    is_builder: bool,
    barrier: Callable[[], None],
    progress: Progress | None = None,
) -> Decoded:
    """Decodes an image set, or finds it decoded by an earlier run; every process calls it, one per machine builds.

    Images that take more than limit_bytes together are decoded too, once, to find the bad ones, but not kept.
    Raises DiskError where cache_dir cannot be written.
    """
    shape = (len(image_set), *decoding.shape)
    fits = math.prod(shape) <= limit_bytes
    if isinstance(image_set, ArraySet) and (not fits or image_set.images.shape == shape):
        return Decoded(image_set.images if fits else None, {}, None)  # nothing to decode
    cache = _PixelFile(image_set, decoding, cache_dir / "decoded", fits)
    if is_builder and not cache.is_current():
        with explaining_disk_errors(cache.folder):
            cache.build(progress)
    barrier()
    record = cache.read_record()
    bad = {int(i): reason for i, reason in record["bad"].items()}
    pixels = MappedFile(str(cache.path), shape).open() if fits else None
    return Decoded(pixels, bad, cache.record_path, record["num_animations"])


def keep_findings(
    image_set: ImageSet, decoding: Decoding, limit_bytes: int, cache_dir: Path, findings: Findings
) -> None:
    """Spares a run that will read files its search for the bad ones: `distcls check` has just decoded them all."""
    if isinstance(image_set, ArraySet) or len(image_set) * math.prod(decoding.shape) <= limit_bytes:
        return
    record = _PixelFile(image_set, decoding, cache_dir / "decoded", keeps_pixels=False)
    with contextlib.suppress(OSError):  # then the run decodes them again
        record.folder.mkdir(parents=True, exist_ok=True)
        record._write_record(asdict(findings))


@dataclass
class _PixelFile:
    """A file of pixels, and the record beside it: {"size", "mtime_ns", "sha256"} and Findings. Or the record only."""

    image_set: ImageSet
    decoding: Decoding
    folder: Path
    keeps_pixels: bool

    def __post_init__(self) -> None:
        name = f"distcls-{self._key()}"
        self.path = self.folder / f"{name}.pixels"
        self.record_path = self.folder / f"{name}.json"

    def _key(self) -> str:
        modified = self.image_set.modified if isinstance(self.image_set, FolderSet) else ""
        how = astuple(self.decoding) if self.keeps_pixels else self.decoding.float_range
        return hashlib.sha256(repr((self.image_set.fingerprint(), modified, how, DECODER_VERSION)).encode()).hexdigest()

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
        """Hashing 4 GB takes seconds, so only where somebody copied or touched the file."""
        stat = self.path.stat()
        if stat.st_size != record["size"]:
            return False
        return stat.st_mtime_ns == record["mtime_ns"] or _sha256(self.path) == record["sha256"]

    def _is_bad(self, i: int) -> bool:
        try:
            checked_image(self.image_set, i, self.decoding)
        except (BadImageError, OSError):
            return True
        return False

    def build(self, progress: Progress | None) -> None:
        """Decodes into a file beside, makes it durable, and renames it; OSError where the disk does not let it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove_unused(self.folder)
        if not self.keeps_pixels:
            self._write_record(asdict(self._decode(None, progress)))
            return
        with _file_beside(self.path) as building:
            os.truncate(building, len(self.image_set) * math.prod(self.decoding.shape))
            findings = self._decode(building, progress)
            _flush_to_disk(building)
            if self.is_current():  # another run was faster and may have it mapped already: leave it in its place
                return
            stat, sha256 = building.stat(), _sha256(building)
            os.replace(building, self.path)
        file = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
        self._write_record({**file, **asdict(findings)})

    def _decode(self, path: Path | None, progress: Progress | None) -> Findings:
        return decode_all(DecodeJob(self.image_set, self.decoding, path), progress)

    def _write_record(self, record: dict[str, Any]) -> None:
        with _file_beside(self.record_path) as building:
            building.write_text(json.dumps(record, indent=1))
            _flush_to_disk(building)
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


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_unused(folder: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 86_400
    for path in folder.glob("distcls-*"):
        record = path.with_suffix(".json")
        last_use = max((file.stat().st_mtime for file in (path, record) if file.exists()), default=0.0)
        if last_use < oldest:
            path.unlink(missing_ok=True)
