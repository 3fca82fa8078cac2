"""Further views of the same images are keyed by the step and the place in the global batch."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch

from distcls.config.loading import load_config
from distcls.data.augmentation.batchwise import Augmentation, draw_numbers
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.loading.micro_batch import MicroBatch
from distcls.plan.batches import BatchPlan
from distcls.training.objectives.objective import Task

PLAN = BatchPlan(num_images=64, global_batch_size=8, micro_batch_size=4, total_steps=20, seed=0)


def make_task(plan: BatchPlan) -> Task:
    config = load_config(None, ["augment.pad_crop=2", "augment.brightness=0.5", "augment.flip=true"])
    cpu = torch.device("cpu")
    normalize = Normalize.build(config.augment.normalize, cpu, torch.float32, True)
    images: Any = SimpleNamespace(random_crop=None)
    return Task(config, plan, images, 3, Augmentation(normalize, 3), cpu)


def micro_batch(task: Task, index: int, step: int = 3) -> MicroBatch:
    pixels = torch.randint(0, 256, (4, 8, 8, 3), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
    rows = slice(index * 4, index * 4 + 4)
    numbers = {name: table[rows] for name, table in draw_numbers(task.config.augment, task.plan, step).items()}
    return MicroBatch(index, pixels, torch.tensor([0, 1, 2, 0]), numbers)


def test_views_differ_and_are_functions_of_their_number_and_the_step():
    task = make_task(PLAN)
    batch = micro_batch(task, 1)
    views = [task.view(batch, 3, number)[0] for number in (0, 1, 2)]
    later = task.view(batch, 4, 1)[0]
    for one, other in ((views[0], views[1]), (views[1], views[2]), (views[1], later)):
        assert not torch.equal(one, other)
    assert torch.equal(make_task(PLAN).view(batch, 3, 1)[0], views[1])


def test_a_micro_batch_has_the_same_views_on_any_process():
    alone = make_task(PLAN)
    shared = make_task(dataclasses.replace(PLAN, rank=1, world_size=2))
    batch = micro_batch(alone, 1)
    assert torch.equal(alone.view(batch, 3, 1)[0], shared.view(batch, 3, 1)[0])
    assert not torch.equal(alone.view(batch, 3, 1)[0], alone.view(dataclasses.replace(batch, index=0), 3, 1)[0])
