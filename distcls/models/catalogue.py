"""Lists the models that model.name can take, with their size and whether weights for them are on this machine."""

from __future__ import annotations

import difflib
import fnmatch
import re
import warnings
from dataclasses import dataclass
from typing import Literal

import torch

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import MODELS, build_model
from distcls.models.layers import count_flops
from distcls.models.libraries import LIBRARIES, library_of
from distcls.models.library_weights import LibraryWeights

Weights = Literal["here", "download", "none"]
"""Where trained weights are: on this machine, on the web, or nowhere."""

LIBRARY_CLASSES = 1000
"""Libraries' models are described with ImageNet's classes, for which most of their weights are."""


@dataclass(frozen=True)
class Facts:
    """A model's size, before it is trained, and where trained weights for it are."""

    name: str
    """As in model.name."""
    num_parameters: int
    """With `num_classes` classes."""
    flops: int | None
    """For one image (models/layers.py); None if the model could not be run to count them."""
    image_size: int
    """Height and width in pixels of the images it was made for."""
    num_classes: int
    weights: Weights


RECOMMENDED = (
    *MODELS,
    *(f"timm/{name}" for name in ("tf_efficientnet_lite0", "mobilenetv4_conv_small", "efficientnet_b0")),
    *(f"timm/{name}" for name in ("convnextv2_nano", "vit_small_patch16_224")),
    *(f"torchvision/{name}" for name in ("resnet18", "resnet50", "efficientnet_v2_s", "convnext_tiny", "vit_b_16")),
)
"""A few models to begin with."""

BUILT_IN_SIZE, OTHER_SIZE = 32, 224
"""Pixels: what the built-in models were made for, and the usual size of all others."""


def image_size_of(name: str) -> int:
    """Return the side in pixels of the images that a known model was made for; 224 for a user's own."""
    return _size_for(name, weights_of(name))


def _size_for(name: str, weights: LibraryWeights | None) -> int:
    if name in MODELS:
        return BUILT_IN_SIZE
    return OTHER_SIZE if weights is None else weights.preprocessing.image_size


def describe_model(name: str) -> Facts:
    """Return the facts about a model that `find_models` names, or RECOMMENDED."""
    weights, num_classes = weights_of(name), 10 if name in MODELS else LIBRARY_CLASSES
    size = _size_for(name, weights)
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        network = build_model(ModelConfig(name=name, channels_last=False), num_classes, size)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    try:
        flops = count_flops(network, size)
    except Exception:  # it looks at numbers, which it does not have on the meta device
        flops = None
    return Facts(name, num_parameters, flops, size, num_classes, _where(weights))


def weights_of(name: str) -> LibraryWeights | None:
    """Return a library's default weights for a model; None if there are none, as for models of other kinds."""
    found = library_of(name)
    return None if found is None else found[0].weights(found[1], None)


def _where(weights: LibraryWeights | None) -> Weights:
    if weights is None:
        return "none"
    return "here" if weights.find() is not None else "download"


def names_by_prefix() -> dict[str, list[str]]:
    """Return the names of all models by the prefix that they have in model.name: "", "timm/" or "torchvision/"."""
    return {"": list(MODELS)} | {f"{prefix}/": list(library.names()) for prefix, library in LIBRARIES.items()}


def find_models(pattern: str) -> list[str]:
    """Return the names that match: a shell pattern such as resnet*, or a part of the name such as vit.

    Upper and lower case are alike, and a pattern applies with and without the library's prefix. Within a library, names
    that begin with the text come first. Raises UsageError, with a suggestion, if nothing matches.
    """
    text, found, known = pattern.lower(), [], []
    for prefix, all_names in names_by_prefix().items():
        names = sorted(all_names, key=lambda name: (not name.lower().startswith(text), natural(name)))
        known += [f"{prefix}{name}" for name in names]
        found += [f"{prefix}{name}" for name in names if _matches(text, prefix, name)]
    if not found:
        raise UsageError(
            f"no model's name matches {pattern!r}.{_hint(text, known)} Give a part of a name, such as vit, or a shell "
            "pattern in quotes, such as 'resnet*'; without one, distcls models shows a few to begin with."
        )
    return found


def _matches(text: str, prefix: str, name: str) -> bool:
    whole = f"{prefix}{name}".lower()
    if any(character in text for character in "*?["):
        return fnmatch.fnmatchcase(whole, text) or fnmatch.fnmatchcase(name.lower(), text)
    return text in whole


def _hint(text: str, known: list[str]) -> str:
    """Return " Did you mean …?" with the full name of the most similar model, or nothing."""
    names = {name if "/" in text else name.rpartition("/")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(text, names, n=1)
    return f" Did you mean {names[near[0]]!r}?" if near else ""


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts resnet50 before resnet101."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]
