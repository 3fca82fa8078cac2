"""Further views of the same images are keyed by the step and the place in the global batch."""

from __future__ import annotations

import dataclasses

import torch
from small_tasks import PLAN, make_task

from distcls.data.augmentation.batchwise import draw_numbers
from distcls.data.loading.micro_batch import MicroBatch
from distcls.training.objectives.objective import Task


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


def test_all_views_share_the_crop_that_workers_may_have_taken():
    task = make_task(PLAN)
    whole = dataclasses.replace(micro_batch(task, 1), numbers={"box": torch.tensor([[0, 0, 4, 4]] * 4)})
    corner = whole.pixels.clone()
    corner[:, 4:] = corner[:, :, 4:] = 0
    other = dataclasses.replace(whole, pixels=corner)
    assert torch.equal(task.view(whole, 3, 1)[0], task.view(other, 3, 1)[0])


def test_a_micro_batch_has_the_same_views_on_any_process():
    alone = make_task(PLAN)
    shared = make_task(dataclasses.replace(PLAN, rank=1, world_size=2))
    batch = micro_batch(alone, 1)
    assert torch.equal(alone.view(batch, 3, 1)[0], shared.view(batch, 3, 1)[0])
    assert not torch.equal(alone.view(batch, 3, 1)[0], alone.view(dataclasses.replace(batch, index=0), 3, 1)[0])
