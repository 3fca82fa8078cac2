"""What is left of a run for people to look at is what really happened."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distcls.config.settings import AugmentConfig, Config, NormalizeConfig
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.decoding.decode import Decoding
from distcls.data.loading.loader import train_batches
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Split
from distcls.plan.batches import BatchPlan
from distcls.training.pictures import first_images

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "settings", [{}, {"flip": True, "cutout": 0.3}, {"mixup": 1.0}, {"mixup": 1.0, "cutmix": 1.0, "pad_crop": 2}]
)
def test_the_training_images_shown_are_those_of_the_first_micro_batches(settings):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (50, 8, 8, 3)).astype(np.uint8), draw.integers(0, 3, 50)
    split = Split(
        "train", ArraySet("made", ["a", "b", "c"], labels, images), np.arange(50), labels, images, Decoding(8)
    )
    plan = BatchPlan(num_images=50, global_batch_size=32, micro_batch_size=16, total_steps=1, seed=0)
    config = Config(augment=AugmentConfig(**settings))
    normalize = Normalize.build(NormalizeConfig(), CPU, torch.float32, True)
    augment = Augmentation(normalize, 3)
    data = SimpleNamespace(train=split, class_names=["a", "b", "c"])
    run = SimpleNamespace(config=config, processes=SimpleNamespace(device=CPU))
    shown, titles = first_images(data, plan, augment, run)
    assert len(shown) == len(titles) == 36
    first = next(train_batches(split, plan, config.augment, CPU, 0, 0))[0]
    entered, targets = augment(first)
    assert np.array_equal(shown[:12], normalize.undo(entered).numpy()[:12])
    for title, target in zip(titles[:12], targets, strict=False):
        if target.ndim == 0:
            assert title == "abc"[target]
        else:
            parts = [part.split() for part in title.split("\n")]
            found = {part[-1]: float(part[0][:-1]) / 100 if len(part) == 2 else 1.0 for part in parts}
            assert [found.get(name, 0) for name in "abc"] == pytest.approx(target.tolist(), abs=0.006)
