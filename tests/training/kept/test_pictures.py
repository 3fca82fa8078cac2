"""What is left of a run for people to look at is what really happened."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distcls.config.settings import AugmentConfig, Config, NormalizeConfig
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.decoding.decode import BadImageError, Decoding
from distcls.data.loading.loader import train_batches
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Split
from distcls.plan.batches import BatchPlan
from distcls.training.kept.pictures import (
    EXAMPLES,
    MOST_CONFUSED,
    choose_pictures,
    examples_of_confusions,
    first_images,
)

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


def test_the_examples_are_the_surest_of_each_confusion() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 3000)
    preds = np.where(draw.random(3000) < 0.2, draw.integers(0, 3, 3000), labels)
    confidence = draw.random(3000)
    chosen = examples_of_confusions(labels, preds, confidence, 3)
    assert len(chosen) == 9 * EXAMPLES and (np.diff(chosen) > 0).all()
    for true, predicted in np.ndindex(3, 3):
        cell = np.flatnonzero((labels == true) & (preds == predicted))
        surest = cell[np.argsort(-confidence[cell])[:EXAMPLES]]
        assert set(surest) == set(chosen[(labels[chosen] == true) & (preds[chosen] == predicted)])


def test_with_many_classes_the_most_frequent_confusions_have_examples() -> None:
    labels = np.repeat(np.arange(60), 20)
    preds = labels.copy()
    preds[::2] = (labels[::2] + 1) % 60  # ten mistakes in each class
    preds[:20] = 1  # twenty in the first
    chosen = examples_of_confusions(labels, preds, np.linspace(0, 1, len(labels)), 60)
    assert len(chosen) == MOST_CONFUSED and (labels[chosen] != preds[chosen]).all()
    assert len(set(labels[chosen])) == 60 and np.bincount(labels[chosen])[0] == 4


def test_without_mistakes_there_are_examples_of_what_is_right() -> None:
    labels = np.arange(10) % 2
    assert examples_of_confusions(labels, labels, np.ones(10), 2).tolist() == list(range(10))
    assert len(examples_of_confusions(labels[:0], labels[:0], np.ones(0), 2)) == 0


def test_an_image_that_cannot_be_read_any_more_is_left_out() -> None:
    class Gone(ArraySet):
        def image(self, i: int, decoding: Decoding) -> np.ndarray:
            if i == 0:
                raise BadImageError("not an image")
            return self.images[i]

    labels, images = np.arange(20) % 2, np.zeros((20, 8, 8, 3), np.uint8)
    split = Split("test", Gone("made", ["a", "b"], labels, images), np.arange(20), labels, None, Decoding(8))
    metrics = SimpleNamespace(preds=1 - labels, confidence=np.linspace(1, 0.5, 20))
    data = SimpleNamespace(test=split, val=None, class_names=["a", "b"])
    pictures = choose_pictures(data, {"test": metrics}, (images[:1], ["a"]))
    assert pictures["worst_mistakes"].places == list(range(1, 20)) and len(pictures["worst_mistakes"].pixels) == 19
    assert 0 not in pictures["predictions"].places + pictures["confusions"].places
