"""Describes a network as timm does on the Hub: in config.json, which timm.create_model and transformers read."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from distcls.config.settings import Config, ModelConfig
from distcls.data.decoding.decode import Decoding
from distcls.models.libraries import library_of
from distcls.models.timm_library import CROP_MODES, TimmLibrary, arguments

KEPT = ("classifier", "first_conv", "pool_size", "fixed_input_size")
"""What timm knows of an architecture and needs to give it another head or other images."""


def architecture(config: ModelConfig) -> str | None:
    """Return the name by which timm builds this network, without a tag; None if it is not one of timm's.

    Some networks of torchvision have the same layers, with the same names, under their name in timm. So theirs is
    returned too: whether it computes the same has to be tried.
    """
    found = library_of(config.name)
    if found is None:
        return None
    library, name = found[0], found[1].partition(".")[0]
    if isinstance(library, TimmLibrary):
        return name
    return name if not config.args and TimmLibrary().has(name) else None


def describe_for_timm(network: nn.Module, config: Config, decoding: Decoding, class_names: list[str]) -> dict[str, Any]:
    """Return the content of config.json. network: built by timm, so that it says what timm knows of it."""
    name = architecture(config.model)
    assert name is not None
    size, known = decoding.shape[0], getattr(network, "pretrained_cfg", {})
    normalize = config.augment.normalize
    pretrained = {
        "custom_load": False,
        "input_size": [3, size, size],
        "interpolation": decoding.interpolation,
        "crop_pct": crop_share(decoding),
        "crop_mode": CROP_MODES[decoding.resize],
        "mean": list(normalize.mean),
        "std": list(normalize.std),
        "num_classes": len(class_names),
        **{key: known[key] for key in KEPT if known.get(key) is not None},
    }
    described = {
        "architecture": name,
        "num_classes": len(class_names),
        "num_features": getattr(network, "num_features", None),
        "label_names": class_names,
        "pretrained_cfg": pretrained,
    }
    given = arguments(name, size, config.model.args)
    return {**described, "model_args": given} if given else described


def crop_share(decoding: Decoding) -> float:
    """Return timm's crop_pct: it resizes the short side to floor(size / crop_pct), and crops.

    The floor of a quotient that is whole but for rounding would lose a pixel.
    """
    size = decoding.shape[0]
    resized = round(size / decoding.crop_fraction) if decoding.resize == "crop" else size
    share = size / resized
    while math.floor(size / share) < resized:
        share = math.nextafter(share, 0)
    return share
