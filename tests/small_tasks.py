"""The task of an objective in small: three classes, eight images a step, and no data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from distcls.config.loading import load_config
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.plan.batches import BatchPlan
from distcls.training.objectives.objective import Task

PLAN = BatchPlan(num_images=64, global_batch_size=8, micro_batch_size=4, total_steps=20, seed=0)


def make_task(plan: BatchPlan) -> Task:
    config = load_config(None, ["augment.pad_crop=2", "augment.brightness=0.5", "augment.flip=true"])
    cpu = torch.device("cpu")
    normalize = Normalize.build(config.augment.normalize, cpu, torch.float32, True)
    images: Any = SimpleNamespace(random_crop=None)
    return Task(config, plan, images, 3, Augmentation(normalize, 3, 4), cpu)
