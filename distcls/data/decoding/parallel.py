"""Processes all images of a set once, on all CPUs of the machine if there are enough images to be worth it."""

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

from distcls.cluster.cpu import available_cpus
from distcls.cluster.signals import STOP_SIGNALS
from distcls.data.cache.journal import Chunk
from distcls.data.decoding.decode import BadImageError, Decoding, decode_and_describe
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import CONTENT_BYTES, ArraySet, ImageSet, content_digest
from distcls.errors import OutOfMemoryError

OnProgress = Callable[[int, int], None]
"""progress(images done, total images)."""

MIN_IMAGES = 2000  # with fewer, starting processes takes longer than decoding
MAX_CHUNK_BYTES = 16_000_000
MAX_CHUNK_IMAGES = 256


BAD_CONTENT = bytes(CONTENT_BYTES)
"""The digest of an image that is bad or has no file of its own."""


class Job(Protocol):
    """Something to do with each image of a set. Jobs are pickled for decoding processes, and their results back."""

    @property
    def image_set(self) -> ImageSet: ...

    @property
    def decoding(self) -> Decoding: ...

    def do_chunk(self, start: int, stop: int) -> Any:
        """Return the result for the images from start to stop. Raises OSError if the whole job must end."""
        ...


@dataclass(frozen=True)
class DecodeJob:
    """Everything a decoding process needs to know."""

    image_set: ImageSet
    decoding: Decoding
    path: Path | None
    """File of uint8 (N, image_size, image_size, 3) to write into; None decodes only to find the bad images."""

    def do_chunk(self, start: int, stop: int) -> Chunk:
        """Decode the images from start to stop and write them to their places; pixels of bad images stay 0."""
        bad: dict[int, str] = {}
        num_animations = 0
        pixels = np.zeros((stop - start if self.path else 1, *self.decoding.shape), np.uint8)
        digests: list[bytes] = []
        for i in range(start, stop):
            digest = BAD_CONTENT
            with noting_if_bad(i, bad):
                pixels[i - start if self.path else 0], digest, is_animation = self._decode(i)
                num_animations += is_animation
            digests.append(digest)
        if self.path:
            with open(self.path, "r+b") as file:  # not through a mapping, where a full disk kills with SIGBUS
                file.seek(start * math.prod(self.decoding.shape))
                file.write(pixels.data)
        checksum, stamp = zlib.crc32(pixels.data) if self.path else 0, stamp_of(self.image_set)
        return Chunk(start, stop, bad, num_animations, checksum, b"".join(digests).hex(), stamp)

    def _decode(self, i: int) -> tuple[np.ndarray, bytes, bool]:
        """Return image i's pixels, its file's digest, and True if it is an animation. Raises BadImageError."""
        if not isinstance(self.image_set, FolderSet):
            return checked_image(self.image_set, i, self.decoding), BAD_CONTENT, False
        content = self.image_set.content(i)
        pixels, original = decode_and_describe(io.BytesIO(content), self.decoding)
        return pixels, content_digest(content), original.is_animation


@dataclass(frozen=True)
class HashJob:
    """Reads files without decoding them, to check whether they are the ones that were decoded."""

    image_set: FolderSet
    decoding: Decoding

    def do_chunk(self, start: int, stop: int) -> tuple[int, bytes]:
        """Return start, and the concatenated digests of the files from start to stop."""
        return start, b"".join(self._digest(i) for i in range(start, stop))

    def _digest(self, i: int) -> bytes:
        try:
            return content_digest(self.image_set.content(i))
        except BadImageError:
            return BAD_CONTENT


def do_all(job: Job, progress: OnProgress | None = None, done: Collection[tuple[int, int]] = ()) -> Iterator[Any]:
    """Do a job on all images, chunk by chunk, and yield the result of each chunk, in any order.

    done: chunks that an earlier start has finished. Raises OSError if the job does, and RuntimeError if a decoding
    process dies.
    """
    chunks = [chunk for chunk in cut_chunks(job) if chunk not in done]
    to_do = sum(stop - start for start, stop in chunks)
    in_parallel = to_do > MIN_IMAGES and not isinstance(job.image_set, ArraySet)
    num_done = len(job.image_set) - to_do
    if progress:
        progress(num_done, len(job.image_set))  # so that people know at once what they are waiting for
    for count, answer in _do_in_parallel(job, chunks) if in_parallel else _do_here(job, chunks):
        yield answer
        num_done += count
        if progress:
            progress(num_done, len(job.image_set))


def cut_chunks(job: Job) -> list[tuple[int, int]]:
    """Cut the set into chunks (start, stop) of a few MB each."""
    count = len(job.image_set)
    step = max(1, min(MAX_CHUNK_IMAGES, MAX_CHUNK_BYTES // math.prod(job.decoding.shape)))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def stamp_of(image_set: ImageSet) -> str:
    """Return FolderSet.stamp, or "" if the images have no files of their own."""
    return image_set.stamp if isinstance(image_set, FolderSet) else ""


def checked_image(image_set: ImageSet, i: int, decoding: Decoding) -> np.ndarray:
    """Return uint8 (image_size, image_size, 3), or a random part (h, w, 3), from anybody's image set.

    Raises BadImageError, also if the image set returns something else.
    """
    image = image_set.image(i, decoding)
    expected = (*image.shape[:2], 3) if decoding.keeps_pixels else decoding.shape
    if image.shape != expected or image.dtype != np.uint8:
        raise BadImageError(f"decoded to {image.dtype} {image.shape}, expected uint8 {expected}")
    return image


@contextlib.contextmanager
def noting_if_bad(i: int, bad: dict[int, str]) -> Iterator[None]:
    """Put the reason into bad[i] if image i cannot be read or decoded, instead of raising an error."""
    try:
        yield
    except (BadImageError, OSError) as error:  # OSError comes from image sets of the user's own
        bad[i] = str(error)


def _do_here(job: Job, chunks: list[tuple[int, int]]) -> Iterator[tuple[int, Any]]:
    for start, stop in chunks:
        yield stop - start, job.do_chunk(start, stop)


def _do_in_parallel(job: Job, chunks: list[tuple[int, int]]) -> Iterator[tuple[int, Any]]:
    with _decoding_processes(min(available_cpus(), len(chunks))) as started:
        try:
            yield from _hand_out(job, iter(chunks), [connection for connection, _ in started])
        except (EOFError, ConnectionError) as error:
            if any(_was_killed(process) for _, process in started):
                raise OutOfMemoryError(
                    "a process that decodes images was killed. That usually happens because the machine, or the "
                    "container, ran out of memory: give it more, or let fewer processes decode (taskset -c 0,1 distcls "
                    "train …). What has been decoded is kept."
                ) from error
            raise RuntimeError("a decoding process died. Its reason is above") from error


def _was_killed(process: subprocess.Popen[bytes]) -> bool:
    """True if a process ended by SIGKILL. Its connection may have closed a moment before its end."""
    try:
        return process.wait(timeout=0.2) == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        return False


def _hand_out(job: Job, chunks: Iterator[tuple[int, int]], connections: list[Connection]) -> Iterator[tuple[int, Any]]:
    """Send each process the job and a chunk, then another chunk for each answer. None ends both directions."""
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
def _decoding_processes(count: int) -> Iterator[list[tuple[Connection, subprocess.Popen[bytes]]]]:
    """Run `count` processes of worker.py, each with a connection to it, until the block ends.

    They are not multiprocessing's: spawn would import the main module again, torch included, and fails in
    scripts without a main guard; fork fails with CUDA and threads.
    """
    started = [_start() for _ in range(count)]
    try:
        yield started
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
    """Keep these signals from processes started in the block: only the main process handles preemption."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
