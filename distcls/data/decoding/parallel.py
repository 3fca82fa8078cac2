"""Goes through all images of a set once, on all CPUs of the machine where that is worth starting processes for."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distcls.cluster.signals import STOP_SIGNALS
from distcls.data.cache.journal import Chunk
from distcls.data.decoding.decode import BadImageError, Decoding, decode_and_describe
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import CONTENT_BYTES, ArraySet, ImageSet, content_digest

Progress = Callable[[int, int], None]
"""progress(images done, images in all)."""

MIN_IMAGES = 2000  # below, starting processes takes longer than decoding
MAX_CHUNK_BYTES = 16_000_000
MAX_CHUNK_IMAGES = 256


BAD_CONTENT = bytes(CONTENT_BYTES)
"""The digest of an image that is bad, or in no file of its own."""


class Job(Protocol):
    """What to do with the images of a set. It is sent to decoding processes, and so are its answers."""

    @property
    def image_set(self) -> ImageSet: ...

    @property
    def decoding(self) -> Decoding: ...

    def do_chunk(self, start: int, stop: int) -> Any:
        """Does it with the images from start to stop. Raises OSError for what must end the whole job."""
        ...


@dataclass(frozen=True)
class DecodeJob:
    """Everything a decoding process has to know."""

    image_set: ImageSet
    decoding: Decoding
    path: Path | None
    """File of uint8 (N, image_size, image_size, 3) to write into; None decodes to find the bad images only."""

    def do_chunk(self, start: int, stop: int) -> Chunk:
        """Decodes the images from start to stop and writes them to their place; pixels of bad ones stay 0."""
        bad: dict[int, str] = {}
        num_animations = 0
        pixels = np.zeros((stop - start if self.path else 1, *self.decoding.shape), np.uint8)
        digests: list[bytes] = []
        for i in range(start, stop):
            try:
                pixels[i - start if self.path else 0], digest, is_animation = self._decode(i)
                num_animations += is_animation
            except (BadImageError, OSError) as error:
                bad[i], digest = str(error), BAD_CONTENT
            digests.append(digest)
        if self.path:
            with open(self.path, "r+b") as file:  # not through a mapping: there, a full disk kills by SIGBUS
                file.seek(start * math.prod(self.decoding.shape))
                file.write(pixels.data)
        checksum, stamp = zlib.crc32(pixels.data) if self.path else 0, stamp_of(self.image_set)
        return Chunk(start, stop, bad, num_animations, checksum, b"".join(digests).hex(), stamp)

    def _decode(self, i: int) -> tuple[np.ndarray, bytes, bool]:
        """Its pixels, the digest of its file, and whether it is the first frame of several. Raises BadImageError."""
        if not isinstance(self.image_set, FolderSet):
            return checked_image(self.image_set, i, self.decoding), BAD_CONTENT, False
        content = self.image_set.content(i)
        pixels, original = decode_and_describe(io.BytesIO(content), self.decoding)
        return pixels, content_digest(content), original.is_animation


@dataclass(frozen=True)
class HashJob:
    """Reads files without decoding them: are they those that have been decoded?"""

    image_set: FolderSet
    decoding: Decoding

    def do_chunk(self, start: int, stop: int) -> tuple[int, bytes]:
        """start, and the digests of the files from there to stop, one after the other."""
        return start, b"".join(self._digest(i) for i in range(start, stop))

    def _digest(self, i: int) -> bytes:
        try:
            return content_digest(self.image_set.content(i))
        except BadImageError:
            return BAD_CONTENT


def do_all(job: Job, progress: Progress | None = None, done: Collection[tuple[int, int]] = ()) -> Iterator[Any]:
    """Does the job with all images, chunk by chunk, and gives the answer of each chunk, in any order.

    done: chunks that an earlier start has done already. Raises OSError where the job does, RuntimeError where a
    decoding process dies.
    """
    chunks = [chunk for chunk in cut_chunks(job) if chunk not in done]
    to_do = sum(stop - start for start, stop in chunks)
    in_parallel = to_do > MIN_IMAGES and not isinstance(job.image_set, ArraySet)
    num_done = len(job.image_set) - to_do
    if progress:
        progress(num_done, len(job.image_set))  # whoever waits knows from now on what for
    for count, answer in _do_in_parallel(job, chunks) if in_parallel else _do_here(job, chunks):
        yield answer
        num_done += count
        if progress:
            progress(num_done, len(job.image_set))


def cut_chunks(job: Job) -> list[tuple[int, int]]:
    """Cuts the set into (start, stop) of a few MB each."""
    count = len(job.image_set)
    step = max(1, min(MAX_CHUNK_IMAGES, MAX_CHUNK_BYTES // math.prod(job.decoding.shape)))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def stamp_of(image_set: ImageSet) -> str:
    """See FolderSet.stamp; "" where images do not lie in files of their own."""
    return image_set.stamp if isinstance(image_set, FolderSet) else ""


def checked_image(image_set: ImageSet, i: int, decoding: Decoding) -> np.ndarray:
    """uint8 (image_size, image_size, 3), or a random part (h, w, 3), whoever wrote the image set.

    Raises BadImageError.
    """
    image = image_set.image(i, decoding)
    expected = (*image.shape[:2], 3) if decoding.keeps_pixels else decoding.shape
    if image.shape != expected or image.dtype != np.uint8:
        raise BadImageError(f"{image.dtype} {image.shape} came out, not uint8 {expected}")
    return image


def available_cpus() -> int:
    """CPUs this process may use: inside a Slurm job or a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _do_here(job: Job, chunks: list[tuple[int, int]]) -> Iterator[tuple[int, Any]]:
    for start, stop in chunks:
        yield stop - start, job.do_chunk(start, stop)


def _do_in_parallel(job: Job, chunks: list[tuple[int, int]]) -> Iterator[tuple[int, Any]]:
    with _decoding_processes(min(available_cpus(), len(chunks))) as connections:
        try:
            yield from _hand_out(job, iter(chunks), connections)
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                "a decoding process died. Where it could say why, that stands above; one killed for memory cannot"
            ) from error


def _hand_out(job: Job, chunks: Iterator[tuple[int, int]], connections: list[Connection]) -> Iterator[tuple[int, Any]]:
    """Gives each process the job and a chunk, then another chunk for each answer; None is the last for both."""
    for connection in connections:
        connection.send(job)
        connection.send(next(chunks, None))
    while connections:
        for connection in wait(connections):
            assert isinstance(connection, Connection)
            answer = connection.recv()
            if isinstance(answer, OSError):
                raise answer
            if answer is None:
                connections.remove(connection)
                continue
            yield answer
            connection.send(next(chunks, None))


@contextlib.contextmanager
def _decoding_processes(count: int) -> Iterator[list[Connection]]:
    """Starts `count` processes of decode_worker.py; when the block is left, they are gone.

    Plain processes instead of multiprocessing's: spawn would import the main module again, with torch
    in it, and breaks in scripts without a main guard; fork breaks with CUDA and threads.
    """
    started = [_start() for _ in range(count)]
    try:
        yield [connection for connection, _ in started]
    finally:
        for connection, process in started:
            connection.close()
            process.kill()
            process.wait()


def _start() -> tuple[Connection, subprocess.Popen[bytes]]:
    ours, theirs = Pipe()
    code = f"from distcls.data.decoding.worker import main; main({theirs.fileno()})"
    search_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
    with theirs, _signals_blocked():
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": search_path, "OPENBLAS_NUM_THREADS": "1"},
        )
    return ours, process


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started inside never see these signals: a preemption is the main process's business."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
