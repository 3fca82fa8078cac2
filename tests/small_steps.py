"""Steps of a small run, with any augmentation, on any device: for tests that look at what a step does there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from variants import variant

from distcls.config.settings import Config, RandomResizedCropConfig
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.decoding.decode import Decoding
from distcls.data.decoding.random_crop import RandomCrop
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Split
from distcls.plan.batches import BatchPlan
from distcls.training.objectives.build import build_objective
from distcls.training.objectives.objective import Task
from distcls.training.state import TrainState, build_state
from distcls.training.step import TrainStep

PLAN = BatchPlan(num_images=24, global_batch_size=12, micro_batch_size=4, total_steps=4, seed=0)
SIZE = 16

AUGMENT = {
    "nothing": {},
    "crop and flip": {"pad_crop": 2, "flip": True},
    "flip alone": {"flip": "alternating"},
    "random part": {"random_resized_crop": RandomResizedCropConfig(), "flip": True},
    "colors": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
    "boxes": {"cutout": 0.25, "erase": 0.5},
    "mixup": {"mixup": 0.4},
    "CutMix": {"mixup": 0.4, "cutmix": 1.0},
    "all": {
        **{"pad_crop": 2, "flip": True, "brightness": 0.2, "hue": 0.1, "cutout": 0.25, "erase": 0.5},
        **{"random_resized_crop": RandomResizedCropConfig(), "mixup": 0.4, "cutmix": 1.0},
    },
}


def make_split(config: Config) -> Split:
    draw = np.random.default_rng(0)
    has_crop = config.augment.random_resized_crop is not None
    images = draw.integers(0, 256, (24, 20 if has_crop else SIZE, 20 if has_crop else SIZE, 3)).astype(np.uint8)
    image_set = ArraySet("made", ["a", "b", "c"], draw.integers(0, 3, 24), images)
    split = Split("train", image_set, np.arange(24), image_set.labels, images, Decoding(images.shape[1]))
    if config.augment.random_resized_crop is not None:
        split.random_crop = RandomCrop.of(Decoding(SIZE), config.augment.random_resized_crop)
    return split


def make_config(model: str, **augment: Any) -> Config:
    return variant(
        model__name=model,
        model__args={"dropout": 0.2},
        train__ema_decay=0.9,
        train__max_grad_norm=1.0,
        train__log_every="1 steps",
        optim__fused=False,
        **{f"augment__{name}": value for name, value in augment.items()},
    )


def make_step(config: Config, acceleration: Any) -> tuple[TrainState, TrainStep]:
    """Of three weighted classes, on the device of the acceleration."""
    data: Any = SimpleNamespace(class_names=["a", "b", "c"], image_size=SIZE)
    run: Any = SimpleNamespace(processes=SimpleNamespace(world_size=1))
    normalize = Normalize.build(
        config.augment.normalize, acceleration.device, torch.float32, config.model.channels_last
    )
    weights = torch.ones(3, device=acceleration.device)
    task = Task(config, PLAN, make_split(config), 3, Augmentation(normalize, 3, SIZE), acceleration.device, weights)
    objective = build_objective(config.objective, task)
    state = build_state(config, data, objective, acceleration, run)
    return state, TrainStep(config, objective, state, PLAN, acceleration)
