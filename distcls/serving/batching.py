"""Turns images that arrive one by one into predictions, in batches.

    the loop of events  ->  threads that decode  ->  one thread that computes  ->  the loop of events

Images wait for each other only while others that are not small are being decoded: a lone one passes at once. Waking up
a thread costs as much as decoding a small image, so small ones are passed on several at a time, and all images of a
batch are answered in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from distcls.data.decoding.decode import BadImageError, Decoding, TooManyPixelsError, decode
from distcls.serving.metrics import Metrics
from distcls.serving.problems import BUSY, TOO_LARGE, UNAVAILABLE, UNREADABLE, Problem

LARGE = 16_000_000
"""Pixels. Larger images take much time and memory, so they are decoded one at a time, and beside the others."""

TINY, TINY_PIXELS = 4096, 65_536
"""Bytes and pixels. One thread decodes such files, and hands them on several at a time."""

TINY_ONES = 16
"""The most that it hands on at once, so that the network can compute one group while the next is decoded."""

log = logging.getLogger("distcls.serving")


@dataclass(slots=True, eq=False)
class Job:
    """One image on its way."""

    answer: asyncio.Future
    """Becomes its probabilities (C,), or a Problem."""
    content: bytes = b""
    """The image file, until it is decoded."""
    pixels: Any = None
    """uint8 (S, S, 3), once it is."""


class Batcher:
    """Decodes and classifies. Its methods are called in the loop of events; close it when done."""

    def __init__(
        self,
        compute: Callable[[np.ndarray], np.ndarray],
        decoding: Decoding,
        metrics: Metrics,
        *,
        max_batch: int,
        max_wait: float,
        max_pixels: int,
        max_queue: int,
        decoders: int,
    ) -> None:
        """compute: from uint8 (n, S, S, 3) to probabilities (n, C). decoders: threads for images of usual size."""
        self.compute, self.decoding, self.metrics = compute, decoding, metrics
        self.max_batch, self.max_wait = max_batch, max_wait
        self.max_pixels, self.max_queue = max_pixels, max_queue
        self.is_failing = False
        """True if the last batch raised an error."""
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._encoded: SimpleQueue[Job | None] = SimpleQueue()
        self._large: SimpleQueue[Job | None] = SimpleQueue()
        self._tiny: SimpleQueue[Job | None] = SimpleQueue()
        self._ready: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._left: list[Job] = []
        """Jobs that were ready, but more than fitted into the last batch."""
        self._num_decoding = 0
        self._lock = threading.Lock()
        """Of _num_decoding."""
        queues = [self._encoded] * decoders + [self._large]
        self._threads = [threading.Thread(target=self._decode_all, args=(queue,)) for queue in queues]
        self._threads += [threading.Thread(target=work) for work in (self._decode_all_tiny, self._compute_all)]
        self._queues = (*queues, self._tiny, self._ready)
        """Of each thread, to end it."""
        for thread in self._threads:
            thread.start()

    async def classify(self, contents: Sequence[bytes]) -> list[np.ndarray | Problem]:
        """Return the probabilities (C,) of each image file, or why there are none.

        Raises Problem if too many images are waiting. May be cancelled.
        """
        jobs = [Job(self._loop.create_future(), content) for content in contents]
        self._admit(jobs)
        for job in jobs:
            if len(job.content) <= TINY:
                self._tiny.put(job)
            else:
                with self._lock:
                    self._num_decoding += 1
                self._encoded.put(job)
        return await self._answers(jobs)

    async def classify_pixels(self, pixels: np.ndarray) -> list[np.ndarray | Problem]:
        """Return the probabilities of images (n, S, S, 3) that are decoded already; see `classify`."""
        jobs = [Job(self._loop.create_future(), pixels=image) for image in pixels]
        self._admit(jobs)
        self._ready.put(jobs)
        return await self._answers(jobs)

    def close(self) -> None:
        """End the threads, once nobody waits for an answer."""
        for queue in self._queues:
            queue.put(None)
        for thread in self._threads:
            thread.join()

    def _admit(self, jobs: Sequence[Job]) -> None:
        if self._waiting + len(jobs) > self.max_queue:
            raise Problem(BUSY, f"{self._waiting:,} images are waiting already. Try again later.")
        self._waiting += len(jobs)
        self.metrics.queue.inc(len(jobs))

    async def _answers(self, jobs: Sequence[Job]) -> list[np.ndarray | Problem]:
        try:
            return [await job.answer for job in jobs]
        finally:
            for job in jobs:
                job.answer.cancel()  # if the request has been given up
            self._waiting -= len(jobs)
            self.metrics.queue.dec(len(jobs))

    # In threads -----------------------------------------------------------------------------------

    def _decode_all(self, queue: SimpleQueue[Job | None]) -> None:
        while (job := queue.get()) is not None:
            is_large = queue is self._large
            try:
                if not job.answer.cancelled():
                    self._decode(job, self.max_pixels if is_large else min(self.max_pixels, LARGE))
            except TooManyPixelsError as error:
                if not is_large and error.pixels is not None and error.pixels <= self.max_pixels:
                    self._large.put(job)
                    continue
                # The error names the limit of this thread, which may be lower; Pillow's own limit is the same for all.
                reason = str(error) if error.pixels is None else f"more than {self.max_pixels:,} pixels"
                self._deliver([job], [Problem(TOO_LARGE, reason)])
            if job.pixels is not None:
                self._ready.put([job])
            with self._lock:
                self._num_decoding -= 1

    def _decode(self, job: Job, most_pixels: int) -> None:
        """Fill in the pixels, or answer why there are none. Raises TooManyPixelsError."""
        try:
            job.pixels = decode(io.BytesIO(job.content), self.decoding, most_pixels)
        except TooManyPixelsError:
            raise
        except BadImageError as error:
            self._deliver([job], [Problem(UNREADABLE, str(error))])
        except MemoryError:
            self._deliver([job], [Problem(UNAVAILABLE, "there was too little memory to decode this image")])
        except Exception:  # of a decoder's own kinds: one file must not end the thread that all others wait for
            log.exception("an image of %s bytes could not be decoded", len(job.content))
            self._deliver([job], [Problem(UNREADABLE, "the image cannot be decoded; the service's log says why")])
        else:
            job.content = b""

    def _decode_all_tiny(self) -> None:
        while (job := self._tiny.get()) is not None:
            jobs = [job]
            with contextlib.suppress(Empty):
                while len(jobs) < TINY_ONES:
                    if (job := self._tiny.get_nowait()) is None:
                        self._tiny.put(None)  # the end comes after these
                        break
                    jobs.append(job)
            for job in jobs:
                try:
                    if not job.answer.cancelled():
                        self._decode(job, min(self.max_pixels, TINY_PIXELS))
                except TooManyPixelsError:  # a small file of many pixels
                    with self._lock:
                        self._num_decoding += 1
                    self._encoded.put(job)
            if ready := [job for job in jobs if job.pixels is not None]:
                self._ready.put(ready)

    def _compute_all(self) -> None:
        while (batch := self._next_batch()) is not None:
            jobs = [job for job in batch if not job.answer.cancelled()]
            if not jobs:
                continue
            began = time.perf_counter()
            answers: Iterable[np.ndarray | Problem]
            try:
                answers = probs = self.compute(np.stack([job.pixels for job in jobs]))
                self.metrics.predicted(probs)
                self.is_failing = False
            except Exception:  # of the network's own kinds; the service must answer
                log.exception("the network failed on a batch of %s", len(jobs))
                self.is_failing = True
                answers = [Problem(UNAVAILABLE, "the network failed; the service's log says why")] * len(jobs)
            self.metrics.batch_seconds.observe(time.perf_counter() - began)
            self.metrics.batch_size.observe(len(jobs))
            self._deliver(jobs, answers)

    def _next_batch(self) -> list[Job] | None:
        """Return what is ready, up to max_batch; wait for more only while larger files are decoded. None: the end."""
        ready = self._left or self._ready.get()
        batch: list[Job] = []
        latest = time.perf_counter() + self.max_wait
        while ready is not None:
            room = self.max_batch - len(batch)
            batch += ready[:room]
            self._left = ready[room:]
            if len(batch) == self.max_batch:
                return batch
            try:
                left = latest - time.perf_counter()
                is_worth_waiting = self._num_decoding > 0 and left > 0
                ready = self._ready.get(timeout=left) if is_worth_waiting else self._ready.get_nowait()
            except Empty:
                return batch
        if batch:
            self._ready.put(None)  # the end comes after this batch
            return batch
        return None

    def _deliver(self, jobs: Sequence[Job], answers: Iterable[np.ndarray | Problem]) -> None:
        self._loop.call_soon_threadsafe(_set_all, jobs, answers)


def _set_all(jobs: Sequence[Job], answers: Iterable[np.ndarray | Problem]) -> None:
    for job, answer in zip(jobs, answers, strict=True):
        if not job.answer.done():
            job.answer.set_result(answer)
