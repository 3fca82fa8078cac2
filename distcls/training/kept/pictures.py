"""Chooses the pictures that a run keeps, so that its report can be made without its images or its model.

They are chosen and computed after everything else of a run is stored, and change nothing of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import torch

from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.decoding.parallel import noting_if_bad
from distcls.data.loading.loader import train_batches
from distcls.data.split import Data, Split
from distcls.inference.classifier import Classifier
from distcls.inference.gradcam import grad_cam, overlay
from distcls.inference.metrics import SplitMetrics
from distcls.plan.batches import BatchPlan
from distcls.runs.folder import RunFolder
from distcls.runs.results import Pictures
from distcls.training.kept.feature_pictures import first_filters, map_pictures

NUM_PICTURES = 36

NUM_MISTAKES = 50
"""The worst ones, which the demo page of `distcls serve` shows, too."""

NUM_EXPLAINED = 64
"""Images with Grad-CAM: all of these mistakes, and some of the sample."""

MOST_CONFUSED = 200
"""Images kept for the confusion matrix."""

EXAMPLES = 8
"""Images kept for one of its cells."""

FEW_CLASSES = 50
"""Up to this many classes, the diagonal of the confusion matrix has examples too."""


def choose_pictures(
    data: Data, measured: Mapping[str, SplitMetrics], batch: tuple[np.ndarray, list[str]]
) -> dict[str, Pictures]:
    """Return training images as the model saw them; from test (or val) a sample, mistakes and examples of confusions.

    Mistakes are the most confident ones, the first the worst.
    """
    pictures = {"train_batch": Pictures(list(batch[0]), batch[1])}
    split = data.test or data.val
    if split is None:
        return pictures
    metrics = measured[split.name]
    some = np.linspace(0, len(split) - 1, min(NUM_PICTURES, len(split))).astype(int)
    wrong = np.flatnonzero(metrics.preds != split.labels)
    worst = wrong[np.argsort(-metrics.confidence[wrong], kind="stable")][:NUM_MISTAKES]
    confused = examples_of_confusions(split.labels, metrics.preds, metrics.confidence, len(data.class_names))
    for name, chosen in (("predictions", some), ("worst_mistakes", worst), ("confusions", confused)):
        found = _readable(split, chosen.tolist())
        if found.pixels:
            pictures[name] = found
    return pictures


def _readable(split: Split, places: list[int]) -> Pictures:
    """Return these images of a split, but for any that have become unreadable: all results are stored already."""
    pixels, bad = {}, {}
    for place in places:
        with noting_if_bad(place, bad):
            pixels[place] = split.image(place)
    return Pictures(list(pixels.values()), places=list(pixels))


def examples_of_confusions(
    labels: np.ndarray, preds: np.ndarray, confidence: np.ndarray, num_classes: int
) -> np.ndarray:
    """Return positions of images for the cells of the confusion matrix, sorted; at most MOST_CONFUSED.

    First comes one for each confusion, from the most frequent to the least, then a second one …, each time the most
    confident. Correct predictions get what is left, if there are few classes.
    """
    _, cells, counts = np.unique(labels * num_classes + preds, return_inverse=True, return_counts=True)
    order = np.lexsort((-confidence, cells))
    cells, right = cells[order], (labels == preds)[order]
    turn = np.arange(len(order)) - np.searchsorted(cells, cells)  # 0 for the most confident image of each cell
    wanted = (turn < EXAMPLES) & (~right | (num_classes <= FEW_CLASSES))
    priority = np.lexsort((-counts[cells], turn, right))
    return np.sort(order[priority[wanted[priority]]][:MOST_CONFUSED])


def explain_pictures(
    classifier: Classifier, split: Split, preds: np.ndarray, pictures: Mapping[str, Pictures]
) -> dict[str, Pictures]:
    """Return pictures with Grad-CAM of the predicted class, for the worst mistakes and then for the sample.

    Raises UsageError for a network without feature maps.
    """
    places = [
        place for name in ("worst_mistakes", "predictions") if name in pictures for place in pictures[name].places
    ]
    places = list(dict.fromkeys(places))[:NUM_EXPLAINED]
    if not places:
        return {}
    pixels = np.stack([split.image(place) for place in places])
    return {"gradcam": Pictures(list(overlay(pixels, grad_cam(classifier, pixels, preds[places]))), places=places)}


def picture_layers(classifier: Classifier, image: np.ndarray) -> dict[str, Pictures]:
    """Return pictures of the first layer's filters, and of what the layers see in an image, uint8 (S, S, 3)."""
    filters = first_filters(classifier.network)
    maps, captions = map_pictures(classifier, image)
    pictures = {"filters": Pictures(filters)} if filters else {}
    if maps:
        pictures["feature_maps"] = Pictures([image, *maps], ["the image", *captions])
    return pictures


def first_images(data: Data, plan: BatchPlan, augment: Augmentation, run: RunFolder) -> tuple[np.ndarray, list[str]]:
    """Return images of the first micro-batches as the model saw them, uint8 (n, H, W, 3), and their classes.

    A batch is a function of the plan, so it can be rebuilt after the run.
    """
    take_turns = run.config.augment.mixup and run.config.augment.cutmix
    most = NUM_PICTURES // 3 if take_turns else NUM_PICTURES  # of one micro-batch
    few_steps = dataclasses.replace(plan, total_steps=NUM_PICTURES)
    batches = train_batches(data.train, few_steps, run.config.augment, run.processes.device, workers=0, start=0)
    pixels: list[np.ndarray] = []
    titles: list[str] = []
    for batch in itertools.chain.from_iterable(batches):
        images, targets = augment(batch)
        shown = slice(min(most, NUM_PICTURES - len(pixels)))
        pixels.extend(augment.normalize.undo(images[shown].float()).cpu().numpy())
        shares, classes = targets[shown].topk(2, 1) if targets.ndim == 2 else (None, batch.labels[shown, None])
        titles += [_title(data.class_names, classes[i].tolist(), shares, i) for i in range(len(classes))]
        if len(pixels) == NUM_PICTURES:
            break
    return np.stack(pixels), titles


def _title(class_names: list[str], classes: list[int], shares: torch.Tensor | None, i: int) -> str:
    if shares is None or shares[i, 1] < 0.005:
        return class_names[classes[0]]
    return "\n".join(f"{share:.0%} {class_names[c]}" for c, share in zip(classes, shares[i].tolist(), strict=True))
