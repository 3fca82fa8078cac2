"""Finds models that a file of weights fits, for the message about a model that it does not fit."""

from __future__ import annotations

import difflib
import re
import time
from pathlib import Path
from typing import NamedTuple

import torch

from distcls.config.settings import ModelConfig
from distcls.files.verified import Tensors
from distcls.models.build import MODELS, build_model
from distcls.models.catalogue import weights_of
from distcls.models.formats.hugging_face_names import timm_names
from distcls.models.head import head_parameters
from distcls.models.libraries import LIBRARIES

MOST_BUILT = 40
SECONDS = 6
"""The libraries have more than a thousand models, so the search is limited by both of these."""

MOST_NAMED = 3
LEAST_SHARE = 0.75
"""The share of tensors that must agree for a model to be worth naming."""

FILES_OF_ANY_MODEL = ("model", "pytorch_model")
"""Names of files that say nothing; their folders may."""

NUM_CLASSES = 1000
"""Outputs of the models that are tried; their heads fit a file with any number of classes."""


class Fit(NamedTuple):
    """How well a file fits a model."""

    name: str
    fitting: int
    """Number of tensors with the same name and shape in both."""
    total: int
    """Number of tensors in either."""


def models_that_fit(model_name: str, path: Path, tensors: Tensors, image_size: int) -> str:
    """Return " model.name=timm/resnet34 would fit (218 of 218 tensors)." or more names or nothing.

    The models that are tried have names that begin like model.name or like the file's name, or its folder's.
    """
    tensors = timm_names(tensors)
    fits: list[Fit] = []
    names = [name for name in _candidates(model_name, path) if name != model_name]
    until = time.monotonic() + SECONDS
    for name in names[:MOST_BUILT]:
        fits += [fit for fit in [_fit(name, tensors, image_size)] if fit is not None]
        if time.monotonic() > until:
            break
    fits = [fit for fit in fits if fit.fitting >= LEAST_SHARE * fit.total]
    best = sorted(fits, key=lambda fit: -fit.fitting / fit.total)[:MOST_NAMED]
    if best and best[0].fitting == best[0].total:
        best = [fit for fit in best if fit.fitting == fit.total]
        verb = "would fit"
    else:
        verb = "would fit in part"
    found = [f"model.name={fit.name} {verb} ({fit.fitting} of {fit.total} tensors)" for fit in best]
    return f" {', '.join(found)}." if found else ""


def _candidates(model_name: str, path: Path) -> list[str]:
    """Return the built-in models, and then the libraries' of the same families, the likeliest ones first.

    Those are the ones with short names, as common models have, and those with similar names, in turns.

    path: the weights' file, whose name may be that of its model.
    """
    words = (model_name, path.parent.name if path.stem in FILES_OF_ANY_MODEL else path.stem)
    begun = [re.match(r"(tf_)?[a-z]{3,}", word.rpartition("/")[2].lower()) for word in words]
    families = tuple(found[0] for found in begun if found is not None)
    theirs = [
        f"{prefix}/{name}"
        for prefix, library in LIBRARIES.items()
        for name in library.names()
        if families and name.startswith(families)
    ]
    by_length = sorted(theirs, key=lambda name: (len(name.partition("/")[2]), name))
    by_likeness = sorted(theirs, key=lambda name: min(_difference(name, word) for word in words))
    in_turns = [name for pair in zip(by_length, by_likeness, strict=True) for name in pair]
    return list(dict.fromkeys([*MODELS, *in_turns]))


def _difference(name: str, other: str) -> float:
    return 1 - difflib.SequenceMatcher(None, name, other).ratio()


def _fit(name: str, tensors: Tensors, image_size: int) -> Fit | None:
    """Return how well tensors fit a model; None if there is no such model for images of this size."""
    try:
        published = weights_of(name)
        native_size = image_size if published is None else published.preprocessing.image_size
        with torch.device("meta"):
            model = build_model(ModelConfig(name=name, channels_last=False), NUM_CLASSES, native_size)
    except Exception:  # for whatever reason: this is only advice
        return None
    own, head = model.state_dict(), set(head_parameters(model, NUM_CLASSES))
    fitting = sum(_agree(tensors[n], own[n], n in head) for n in own if n in tensors)
    # Old files lack BatchNorm's counters.
    missing = sum(n not in tensors and not n.endswith("num_batches_tracked") for n in own)
    return Fit(name, fitting, len(tensors) + missing)


def _agree(tensor: torch.Tensor, own: torch.Tensor, is_head: bool) -> bool:
    return tensor.shape[is_head:] == own.shape[is_head:]
