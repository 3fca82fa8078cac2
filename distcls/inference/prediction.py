"""Predicts the classes of images that people name or hold, in batches, while the next images are decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from distcls.cluster.cpu import available_cpus
from distcls.data.decoding.given import given_name, is_path, one_or_many
from distcls.data.loading.given_images import GivenImages, load_given
from distcls.data.sources.named_files import files_named
from distcls.errors import BadDataError, MissingInputError, UsageError
from distcls.inference.answers.prediction import BATCH_SIZE, Prediction
from distcls.inference.classifier import Classifier

T = TypeVar("T")

MOST_WORKERS = 16
WORTH_WORKERS = 4 * BATCH_SIZE
"""Images; for fewer, starting processes takes longer than decoding."""


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name; "auto" or None: the GPU if there is one. Raises UsageError if there is none."""
    found = [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()] + ["cpu"]
    if name in (None, "auto"):
        return torch.device(found[0])
    try:
        device = torch.device(name)
        if device.type in found and (device.index or 0) < (torch.cuda.device_count() if device.type == "cuda" else 1):
            return device
    except RuntimeError:
        pass
    raise UsageError(
        f"there is no device {name!r}: torch {torch.__version__} finds {', '.join(found)}. Leave it out, or give auto."
    )


def choose_workers(num_files: int | None) -> int:
    """Return the number of processes to decode this many files with; None: an unknown number."""
    is_worth_it = num_files is None or num_files >= WORTH_WORKERS
    return min(available_cpus(), MOST_WORKERS) if is_worth_it else 0


class GivenOnes(NamedTuple):
    """Images that were given in Python."""

    is_one: bool
    """True if a single image was given, and not a list of one."""
    images: Sequence[Any]
    workers: int
    """Processes to decode them with: none for images that are in memory already."""


def images_given(images: Any) -> GivenOnes:
    """Return the images; those in the folder for the path of a folder.

    Raises UsageError for things that are not images, and MissingInputError, naming the first path that does not exist.
    """
    if is_path(images) and os.path.isdir(images):
        files = files_named(os.fsdecode(images))
        return GivenOnes(False, files, choose_workers(len(files)))
    is_one, given = one_or_many(images)
    for image in given:
        if is_path(image) and not os.path.exists(image):
            raise MissingInputError(f"{os.fsdecode(image)}: no such image.")
    return GivenOnes(is_one, given, choose_workers(len(given)) if all(map(is_path, given)) else 0)


def refusing_bad(batches: Iterable[tuple[GivenImages, T]]) -> Iterator[T]:
    """Yield what belongs to each batch. Raises BadDataError, naming the bad images of the first batch that has some."""
    place = 0
    for batch, found in batches:
        if batch.bad:
            reasons = [f"{given_name(batch.images[i], place + i)}: {reason}" for i, reason in batch.bad.items()]
            raise BadDataError("\n".join(reasons))
        yield found
        place += len(batch.images)


def outputs(
    classifier: Classifier,
    compute: Callable[[torch.Tensor], torch.Tensor],
    images: Iterable[Any],
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Iterator[tuple[GivenImages, torch.Tensor]]:
    """Yield batches of images, and what a method of the classifier computes for the good ones, on the CPU.

    images, workers: see load_given.
    """
    for batch in load_given(images, classifier.decoding, batch_size, classifier.device, workers):
        with torch.inference_mode():
            found = compute(batch.pixels).cpu() if len(batch.pixels) else torch.empty(0, 0)
        yield batch, found


def predictions(
    classifier: Classifier, images: Iterable[Any], topk: int, batch_size: int = BATCH_SIZE, workers: int = 0
) -> Iterator[tuple[GivenImages, list[Prediction]]]:
    """Yield batches of images, and the predictions for the good ones with their `topk` most probable classes."""
    names = classifier.class_names
    for batch, probs in outputs(classifier, classifier, images, batch_size, workers):
        values, classes = probs.sort(dim=1, descending=True, stable=True)
        best = [
            [(names[c], value) for c, value in zip(*row, strict=True)]
            for row in zip(classes[:, :topk].tolist(), values[:, :topk].tolist(), strict=True)
        ]
        paths = [os.fsdecode(image) if is_path(image) else None for image in batch.good]
        rows = zip(best, probs.numpy(), paths, strict=True)
        yield batch, [Prediction(top, row, names, path) for top, row, path in rows]
