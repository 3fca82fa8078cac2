"""The same batches from memory and from disk, on any number of workers, from any step on."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from distcls.config.settings import AugmentConfig, TransformConfig
from distcls.data.augmentation.batchwise import draw_numbers
from distcls.data.decoding.decode import Decoding
from distcls.data.loading import reading
from distcls.data.loading.loader import eval_batches, train_batches
from distcls.data.loading.micro_batch import MicroBatch
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Split
from distcls.errors import OutOfMemoryError, UsageError
from distcls.plan.batches import BatchPlan

CPU = torch.device("cpu")
NUM = 23
PLAN = BatchPlan(num_images=NUM, global_batch_size=12, micro_batch_size=3, total_steps=5, seed=0)
AUGMENT = AugmentConfig(pad_crop=1, flip=True, mixup=0.4)


PER_IMAGE = AugmentConfig(
    transforms=[TransformConfig("RandAugment"), TransformConfig("noise_images:LibraryNoise")], pad_crop=1
)

pytestmark = pytest.mark.usefixtures("one_thread")


def make_split(in_memory: bool) -> Split:
    """23 of 30 images, in an order of its own, so that rows and positions differ."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (30, 4, 4, 3)).astype(np.uint8)
    image_set = ArraySet("made", ["a", "b", "c"], draw.integers(0, 3, 30), images)
    rows = draw.permutation(30)[:NUM]
    return Split("train", image_set, rows, image_set.labels[rows], images if in_memory else None, Decoding(4))


def collect(in_memory=True, workers=0, start=0, plan=PLAN, augment=AUGMENT):
    """Plain values of every micro-batch: step -> list."""
    batches = train_batches(make_split(in_memory), plan, augment, CPU, workers, start)
    return [
        [
            (
                m.index,
                m.own_pixels.tolist(),
                m.labels.tolist(),
                {name: rows.tolist() for name, rows in m.numbers.items()},
            )
            for m in micro_batches
        ]
        for micro_batches in batches
    ]


@pytest.fixture(scope="module")
def from_memory():
    torch.set_num_threads(1)
    return collect()


def test_a_batch_is_what_the_plan_says(from_memory):
    split = make_split(True)
    assert len(from_memory) == 5
    for step, micro_batches in enumerate(from_memory):
        indices, numbers = PLAN.global_batch(step), draw_numbers(AUGMENT, PLAN, step)
        assert [index for index, *_ in micro_batches] == [0, 1, 2, 3]
        for index, pixels, labels, rows in micro_batches:
            own = slice(3 * index, 3 * index + 3)
            assert pixels == [split.image(i).tolist() for i in indices[own]]
            assert labels == split.labels[indices[own]].tolist()
            assert rows == {name: table[own].tolist() for name, table in numbers.items()}


@pytest.mark.parametrize("workers", [0, 2])
def test_from_disk_the_batches_are_those_from_memory(from_memory, workers):
    assert collect(in_memory=False, workers=workers) == from_memory


@pytest.mark.parametrize(("in_memory", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_from_the_middle_on_they_are_the_tail(from_memory, in_memory, workers):
    assert collect(in_memory, workers, start=3) == from_memory[3:]


def test_at_the_end_there_is_nothing_more():
    assert collect(start=5) == []


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one_process(from_memory, in_memory, world_size):
    plans = [dataclasses.replace(PLAN, rank=rank, world_size=world_size) for rank in range(world_size)]
    by_rank = [collect(in_memory, plan=plan) for plan in plans]
    assert [[m for part in parts for m in part] for parts in zip(*by_rank, strict=True)] == from_memory


def test_without_augmentation_there_are_no_numbers():
    batches = collect(augment=AugmentConfig())
    assert all(len(micro_batches) == 4 for micro_batches in batches)
    assert all(rows == {} for micro_batches in batches for *_, rows in micro_batches)


def test_loading_draws_nothing_from_the_global_generator():
    """The workers' base seed would move it, and with it the dropout of whoever draws next."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    collect(in_memory=False, workers=1)
    assert torch.equal(torch.rand(1), expected)


# Transforms of single images ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformed():
    torch.set_num_threads(1)
    return collect(workers=0, augment=PER_IMAGE)


def test_transforms_change_an_image_otherwise_each_time_it_comes(from_memory, transformed):
    came_as: dict[int, list] = {}
    for step, (plain, changed) in enumerate(zip(from_memory, transformed, strict=True)):
        before, after = ([image for _, images, *_ in micros for image in images] for micros in (plain, changed))
        for i, *pixels in zip(PLAN.global_batch(step), before, after, strict=True):
            came_as.setdefault(i, []).extend(pixels)
    assert len(came_as) == NUM
    for pixels in came_as.values():  # plain, transformed, plain, transformed …
        assert all(one == pixels[0] for one in pixels[::2])
        assert len({str(one) for one in pixels[1::2]} | {str(pixels[0])}) == len(pixels) // 2 + 1


@pytest.mark.parametrize(("in_memory", "workers"), [(True, 1), (True, 4), (False, 0), (False, 4)])
def test_transforms_are_the_same_for_any_number_of_workers(transformed, in_memory, workers):
    assert collect(in_memory, workers, augment=PER_IMAGE) == transformed
    assert collect(in_memory, workers, start=3, augment=PER_IMAGE) == transformed[3:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_transforms_are_the_same_on_any_number_of_ranks(transformed, world_size):
    plans = [dataclasses.replace(PLAN, rank=rank, world_size=world_size) for rank in range(world_size)]
    by_rank = [collect(plan=plan, augment=PER_IMAGE) for plan in plans]
    assert [[m for part in parts for m in part] for parts in zip(*by_rank, strict=True)] == transformed


def test_transforms_in_this_process_leave_no_trace_in_global_generators():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed():
        for start in (random.seed, np.random.seed, torch.manual_seed):
            start(3)

    seed()
    expected = draw()
    seed()
    collect(augment=PER_IMAGE)
    assert draw() == expected


def test_transforms_that_cannot_be_applied_are_told_before_the_first_batch():
    with pytest.raises(UsageError, match="Did you mean 'RandAugment'"):
        train_batches(make_split(True), PLAN, AugmentConfig(transforms=[TransformConfig("RandAugmnt")]), CPU, 0, 0)


class Stumbling(ArraySet):
    """The first attempt at each image fails, as on a network file system; image 3 stays away."""

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        tried = self.__dict__.setdefault("tried", set())
        if i == 3 or i not in tried:
            tried.add(i)
            raise OSError("Stale file handle")
        return super().image(i, decoding)


def test_a_file_is_tried_twice_and_then_weighs_nothing(monkeypatch):
    monkeypatch.setattr(reading, "SECONDS_BEFORE_RETRY", 0)
    split = make_split(False)
    expected = list(train_batches(split, PLAN, AugmentConfig(), CPU, 0, 0))
    split.image_set = Stumbling(**vars(split.image_set))
    num_bad = 0
    for found, whole in zip(train_batches(split, PLAN, AugmentConfig(), CPU, 0, 0), expected, strict=True):
        for micro, good in zip(found, whole, strict=True):
            num_bad += len(micro.went_bad)
            assert all(reason == "made/3: Stale file handle" for reason in micro.went_bad.values())
            weights = [0.0 if place in micro.went_bad else 1.0 for place in range(3)]
            assert micro.weights().tolist() == weights
            assert torch.equal(micro.pixels, good.pixels * torch.tensor(weights).view(3, 1, 1, 1).byte())
            assert torch.equal(micro.labels, good.labels)
    assert num_bad >= 2  # 2.6 epochs


def test_what_a_bad_image_is_mixed_into_weighs_nothing_either():
    """It has shares of black pixels, and of a label that belongs to none of them."""
    partner = torch.tensor([1, 2, 0, 3])
    batch = MicroBatch(0, torch.zeros(4, 2, 2, 3), torch.zeros(4), {"partner": partner}, went_bad={2: "gone"})
    assert batch.weights().tolist() == [1, 0, 0, 1]


def test_images_that_do_not_fit_the_device_are_told_with_what_helps(monkeypatch):
    """Smaller micro-batches do not."""

    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "to", no_room)
    with pytest.raises(OutOfMemoryError, match=r"do not fit on meta.*data\.cache=0"):
        reading._resident(make_split(True), torch.device("meta"))


# Evaluation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_memory", "workers", "world_size"),
    [(True, 0, 1), (True, 0, 2), (True, 0, 3), (True, 0, 8), (False, 0, 1), (False, 0, 3), (False, 2, 1)],
)
def test_every_image_is_evaluated_once_in_batches_that_no_rank_decides(in_memory, workers, world_size):
    split = make_split(in_memory)
    found = {}
    for rank in range(world_size):
        for index, pixels, labels in eval_batches(split, 5, CPU, workers, rank, world_size):
            assert index % world_size == rank and index not in found
            found[index] = pixels, labels
    assert [len(found[index][1]) for index in range(5)] == [5, 5, 5, 5, 3]
    assert torch.cat([found[i][1] for i in range(5)]).tolist() == split.labels.tolist()
    assert torch.cat([found[i][0] for i in range(5)]).tolist() == [split.image(i).tolist() for i in range(NUM)]
