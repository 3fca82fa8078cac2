"""Which images are computed together, and what waits for what."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served import png

pytest.importorskip("prometheus_client", reason="pip install 'distcls[serve]'")

from distcls.data.decoding.decode import Decoding, decode
from distcls.serving import batching
from distcls.serving.batching import Batcher
from distcls.serving.metrics import Metrics
from distcls.serving.problems import Problem


class Network:
    """Notes its batches, and waits while it is held."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.may_compute = threading.Event()
        self.may_compute.set()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(len(images))
        assert self.may_compute.wait(30)
        return np.stack([images[:, 0, 0, 0], 255 - images[:, 0, 0, 0]], 1) / np.float32(255)


def in_a_loop(work: Callable[[Batcher], Coroutine[Any, Any, Any]], compute: Any, **options: Any) -> Any:
    async def main() -> Any:
        settings = {"max_batch": 8, "max_wait": 0.0, "max_pixels": 10**6, "max_queue": 100, "decoders": 2, **options}
        batcher = Batcher(compute, Decoding(8), Metrics([str(i) for i in range(300)]), **settings)
        try:
            return await work(batcher)
        finally:
            batcher.close()

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < latest
        await asyncio.sleep(0.005)


def num_ready(batcher: Batcher) -> int:
    """How many images are decoded, while the network is busy with others."""
    lists = [batcher._ready.get_nowait() for _ in range(batcher._ready.qsize())]
    for jobs in lists:
        batcher._ready.put(jobs)
    return sum(len(jobs or []) for jobs in lists)


def test_images_that_wait_are_computed_together_up_to_the_largest_batch() -> None:
    network = Network()

    async def work(batcher: Batcher) -> list[Any]:
        network.may_compute.clear()
        first = asyncio.create_task(batcher.classify([png(0)]))
        await until(lambda: len(network.sizes) == 1)
        others = [asyncio.create_task(batcher.classify([png(seed)])) for seed in range(1, 12)]
        await until(lambda: num_ready(batcher) == 11)
        network.may_compute.set()
        return [(await task)[0] for task in [first, *others]]

    answers = in_a_loop(work, network)
    assert network.sizes == [1, 8, 3]
    for seed, answer in enumerate(answers):  # each request has the answer of its own image
        pixels = np.frombuffer(decode_of(seed), np.uint8)
        assert answer[0] == pytest.approx(pixels[0] / 255)


def decode_of(seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8).tobytes()


def test_a_lone_image_waits_for_nobody() -> None:
    async def work(batcher: Batcher) -> float:
        began = time.monotonic()
        await batcher.classify([png()])
        await batcher.classify_pixels(np.zeros((1, 8, 8, 3), np.uint8))
        return time.monotonic() - began

    assert in_a_loop(work, Network(), max_wait=60) < 20


def decoded_late(monkeypatch: pytest.MonkeyPatch, may_decode: threading.Event) -> bytes:
    """An image that waits to be decoded until it may."""
    slow = png(5, 64)

    def decode_slowly(file: Any, *words: Any) -> np.ndarray:
        if file.getvalue() == slow:
            assert may_decode.wait(30)
        return decode(file, *words)

    monkeypatch.setattr(batching, "decode", decode_slowly)
    return slow


def test_a_batch_waits_for_images_that_are_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    network, may_decode = Network(), threading.Event()
    slow = decoded_late(monkeypatch, may_decode)

    async def work(batcher: Batcher) -> None:
        second = asyncio.create_task(batcher.classify([slow]))
        first = asyncio.create_task(batcher.classify([png(1)]))
        await until(lambda: batcher._ready.qsize() == 0 and batcher._num_decoding == 1)
        await asyncio.sleep(0.1)
        assert network.sizes == []  # it waits, although the first is ready
        may_decode.set()
        await asyncio.gather(first, second)

    in_a_loop(work, network, max_wait=60)
    assert network.sizes == [2]


def test_it_waits_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    network, may_decode = Network(), threading.Event()
    slow = decoded_late(monkeypatch, may_decode)

    async def work(batcher: Batcher) -> None:
        second = asyncio.create_task(batcher.classify([slow]))
        await asyncio.wait_for(batcher.classify([png(1)]), 20)
        may_decode.set()
        await second

    in_a_loop(work, network, max_wait=0.05)
    assert network.sizes == [1, 1]


def test_a_tiny_file_of_many_pixels_is_decoded_like_a_larger_one() -> None:
    file = io.BytesIO()
    Image.new("RGB", (400, 400), (51, 51, 51)).save(file, "PNG")
    assert len(file.getvalue()) < batching.TINY and batching.TINY_PIXELS < 400 * 400

    async def work(batcher: Batcher) -> list[Any]:
        return await asyncio.wait_for(batcher.classify([file.getvalue(), png(0)]), 20)

    assert in_a_loop(work, Network())[0][0] == pytest.approx(0.2)


def test_large_images_are_decoded_one_at_a_time_and_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LARGE", 1000)
    large, may_decode, at_once = png(0, 40), threading.Event(), []

    def decode_slowly(file: Any, decoding: Decoding, most: int) -> np.ndarray:
        if file.getvalue() == large and most > 1000:
            at_once.append(threading.current_thread())
            assert may_decode.wait(30)
        return decode(file, decoding, most)

    monkeypatch.setattr(batching, "decode", decode_slowly)

    async def work(batcher: Batcher) -> None:
        waiting = [asyncio.create_task(batcher.classify([large])) for _ in range(4)]
        await until(lambda: len(at_once) == 1)
        for seed in range(4):
            await asyncio.wait_for(batcher.classify([png(seed)]), 20)
        assert len(at_once) == 1
        may_decode.set()
        await asyncio.gather(*waiting)

    in_a_loop(work, Network())
    assert len(at_once) == 4 and len(set(at_once)) == 1


def test_bad_images_and_large_ones_have_a_reason_each() -> None:
    async def work(batcher: Batcher) -> list[Any]:
        return await batcher.classify([png(0), b"no", png(0, 40), png(1)])

    answers = in_a_loop(work, Network(), max_pixels=1000)
    assert [isinstance(answer, Problem) for answer in answers] == [False, True, True, False]
    assert (answers[1].status, answers[1].reason) == (422, "not an image, or in an unsupported format")
    assert (answers[2].status, answers[2].reason) == (413, "more than 1,000 pixels")


def test_the_reason_names_the_limit_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LARGE", 1000)

    async def work(batcher: Batcher) -> list[Any]:
        return await batcher.classify([png(0), png(0, 60)])

    assert in_a_loop(work, Network(), max_pixels=2000)[1].reason == "more than 2,000 pixels"


def test_whoever_gives_up_is_not_computed() -> None:
    network = Network()

    async def work(batcher: Batcher) -> None:
        network.may_compute.clear()
        first = asyncio.create_task(batcher.classify([png(0)]))
        await until(lambda: len(network.sizes) == 1)
        given_up = asyncio.create_task(batcher.classify([png(1), png(2)]))
        await until(lambda: num_ready(batcher) == 2)
        given_up.cancel()
        await asyncio.sleep(0)
        last = asyncio.create_task(batcher.classify([png(3)]))
        await until(lambda: num_ready(batcher) == 3)
        network.may_compute.set()
        await asyncio.gather(first, last)

    in_a_loop(work, network)
    assert network.sizes == [1, 1]


@pytest.mark.parametrize("tiny", [0, 10**6])
def test_whatever_a_decoder_raises_only_its_image_is_refused(monkeypatch: pytest.MonkeyPatch, tiny: int) -> None:
    """In the thread that decodes small files, and in those that decode others."""
    broken = png(1)

    def decoding(file: io.BytesIO, *rest: Any) -> np.ndarray:
        if file.getvalue() == broken:
            raise ZeroDivisionError("a bug of a decoder")
        return decode(file, *rest)

    monkeypatch.setattr(batching, "decode", decoding)
    monkeypatch.setattr(batching, "TINY", tiny)

    async def work(batcher: Batcher) -> list[Any]:
        first = await asyncio.wait_for(batcher.classify([png(0), broken]), 20)
        return [*first, *await asyncio.wait_for(batcher.classify([png(2)]), 20)]

    good, bad, later = in_a_loop(work, Network())
    assert isinstance(bad, Problem) and bad.status == 422
    assert good.shape == later.shape == (2,)
