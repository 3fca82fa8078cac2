"""Lists the models that model.name can take, with their size and whether weights for them are on this machine."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import MODELS, build_model
from distcls.models.layers import count_flops

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


@dataclass(frozen=True)
class Library:
    """A source of models. Its functions take names without the library's prefix."""

    title: str
    names: Callable[[], list[str]]
    describe: Callable[[str], Facts]
    image_size: Callable[[str], int]
    """Return the size of the images that a model was made for."""
    recommended: tuple[str, ...]
    """A few models to begin with, small ones first."""


def _describe_built_in(name: str) -> Facts:
    size, classes = _built_in_image_size(name), 10
    counted = _count(build_model(ModelConfig(name=name), classes, size), size)
    return Facts(name, *counted, size, classes, "none")


def _built_in_image_size(_: str) -> int:
    return 32


def _count(network: nn.Module, image_size: int) -> tuple[int, int | None]:
    """Return the parameters and FLOPs of a network, which may be on the meta device."""
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    try:
        return num_parameters, count_flops(network, image_size)
    except Exception:  # it looks at numbers, which it does not have on the meta device
        return num_parameters, None


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(torchvision.models)


def _describe_torchvision(name: str) -> Facts:
    import torchvision

    known = [weights.value for weights in torchvision.models.get_model_weights(name)]
    first = min(known, key=_crop_size)
    files = [_in_torch_hub(weights.url) for weights in known]
    return Facts(
        f"torchvision/{name}",
        first.meta["num_params"],
        round(first.meta["_ops"] * 2e9),  # torchvision counts a multiply-add as one
        _crop_size(first),
        LIBRARY_CLASSES,
        "here" if any(os.path.exists(file) for file in files) else "download",
    )


def _torchvision_image_size(name: str) -> int:
    """Return the size of the model's smallest weights: others are for larger images than the network is built for."""
    import torchvision

    return min(_crop_size(weights.value) for weights in torchvision.models.get_model_weights(name))


def _crop_size(weights: Any) -> int:
    """Return the side of the images that weights of torchvision are for."""
    return weights.transforms.keywords["crop_size"]


def _in_torch_hub(url: str) -> str:
    """Return where torch.hub keeps a file that it has downloaded."""
    return os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _describe_timm(name: str) -> Facts:
    import timm

    size = _timm_image_size(name)
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        counted = _count(timm.create_model(name, pretrained=False, num_classes=LIBRARY_CLASSES), size)
    weights = _weights_of_timm(timm.models.get_pretrained_cfg(name))
    return Facts(f"timm/{name}", *counted, size, LIBRARY_CLASSES, weights)


def _timm_image_size(name: str) -> int:
    import timm

    trained = timm.models.get_pretrained_cfg(name)
    return 224 if trained is None else trained.input_size[-1]


def _weights_of_timm(trained: Any) -> Weights:
    """Return where the weights of a PretrainedCfg are: in the caches of Hugging Face or torch.hub, or on the web."""
    from huggingface_hub import try_to_load_from_cache

    if trained is None or not trained.has_weights:
        return "none"
    names = [trained.hf_hub_filename] if trained.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    files = [try_to_load_from_cache(trained.hf_hub_id, name) for name in names] if trained.hf_hub_id else []
    if trained.url:
        files.append(_in_torch_hub(trained.url))
    return "here" if any(isinstance(file, str) and os.path.exists(file) for file in files) else "download"


LIBRARIES: dict[str, Library] = {
    "": Library("built in", lambda: list(MODELS), _describe_built_in, _built_in_image_size, tuple(MODELS)),
    "torchvision/": Library(
        "torchvision",
        _torchvision_names,
        _describe_torchvision,
        _torchvision_image_size,
        ("mobilenet_v3_large", "resnet18", "resnet50", "efficientnet_v2_s", "convnext_tiny", "swin_t", "vit_b_16"),
    ),
    "timm/": Library(
        "timm",
        _timm_names,
        _describe_timm,
        _timm_image_size,
        ("mobilenetv4_conv_small", "efficientnet_b0", "convnextv2_nano", "vit_small_patch16_224"),
    ),
}
"""By the prefix of their names in model.name."""


def image_size_of(name: str) -> int:
    """Return the side in pixels of the images that a known model was made for; 224 for a user's own."""
    prefix = _prefix_of(name)
    return 224 if ":" in name else LIBRARIES[prefix].image_size(name.removeprefix(prefix))


def describe_model(name: str) -> Facts:
    """Return the facts about a model that `find_models` or `recommended_models` names."""
    prefix = _prefix_of(name)
    return LIBRARIES[prefix].describe(name.removeprefix(prefix))


def _prefix_of(name: str) -> str:
    return next((prefix for prefix in LIBRARIES if prefix and name.startswith(prefix)), "")


def recommended_models() -> list[str]:
    """Return the names of the built-in models, and of a few others to begin with."""
    return [f"{prefix}{name}" for prefix, library in LIBRARIES.items() for name in library.recommended]


def find_models(pattern: str) -> list[str]:
    """Return the names that match: a shell pattern such as resnet*, or a part of the name such as vit.

    Upper and lower case are alike, and a pattern applies with and without the library's prefix. Within a library, names
    that begin with the text come first. Raises UsageError, with a suggestion, if nothing matches.
    """
    text, found, known = pattern.lower(), [], []
    for prefix, library in LIBRARIES.items():
        names = sorted(library.names(), key=lambda name: (not name.lower().startswith(text), natural(name)))
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
