"""The head of a classifier: its last layer, which turns features into one number per class."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from distcls.errors import UsageError
from distcls.models.trial import refusing_images
from distcls.plan.randomness import global_state_kept


def head_name(model: nn.Module, num_classes: int) -> str | None:
    """Return the name of the last layer with one output per class; None if there is none."""
    names = [
        name
        for name, layer in model.named_modules()
        if num_classes in (getattr(layer, "out_features", None), getattr(layer, "out_channels", None))
    ]
    return names[-1] if names else None


def head_names(model: nn.Module, num_classes: int) -> list[str]:
    """Return the names of the head's layers, none if there is no head.

    Some models have more than one, whose outputs they average or add: DeiT and LeViT have two, of which the last one,
    head_dist, learned from a teacher. timm's CrossViT, VOLO and EfficientViM say which theirs are.
    """
    named, found = _named_by_timm(model, num_classes), _found_heads(model, num_classes)
    return found if set(named) <= set(found) else named


def _found_heads(model: nn.Module, num_classes: int) -> list[str]:
    last = head_name(model, num_classes)
    if last is None:
        return []
    twin = f"{last}.".replace("_dist.", ".").removesuffix(".")
    return [last] if twin == last or twin not in dict(model.named_modules()) else [twin, last]


def _named_by_timm(model: nn.Module, num_classes: int) -> list[str]:
    """Return the layers with one output per class in the modules that a model of timm calls its classifiers."""
    described: Any = getattr(model, "pretrained_cfg", None)
    classifiers = (described.get("classifier") if isinstance(described, Mapping) else None) or []
    modules, names = dict(model.named_modules()), []
    for classifier in [classifiers] if isinstance(classifiers, str) else classifiers:
        layer = head_name(modules[classifier], num_classes) if classifier in modules else None
        if layer is not None:
            names.append(f"{classifier}.{layer}".removesuffix("."))
    return names


def head_parameters(model: nn.Module, num_classes: int) -> list[str]:
    """Return the names of the head's parameters; none if there is no head."""
    heads = head_names(model, num_classes)
    return [f"{head}.{name}" for head in heads for name, _ in model.get_submodule(head).named_parameters()]


def train_head_only(model: nn.Module, model_name: str, num_classes: int, image_size: int) -> None:
    """Freeze all but the head, and let the model also take features (n, F) instead of images.

    model_name: model.name, for messages. Raises UsageError if the model does not end in a linear layer, or fails on
    images of this size.
    """
    name = head_name(model, num_classes)
    head = None if name is None else model.get_submodule(name)
    refusal = UsageError(
        f"model.head_only=true needs a model that ends in one linear layer with {num_classes} outputs, one per class: "
        "choose another model.name, or leave it out and use model.freeze"
    )
    if not isinstance(head, nn.Linear) or not name or len(head_names(model, num_classes)) > 1:
        raise refusal
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    kind: type[nn.Module] = type(model)

    class OnFeatures(kind):
        """The same network, whose head features skip to. Names and copies of its state stay as they are."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.get_submodule(name)(images) if images.ndim == 2 else super().forward(images)

    OnFeatures.__name__ = kind.__name__
    model.__class__ = OnFeatures
    # If not, something follows the head, such as a temperature.
    if not _is_same_on_features(model, model_name, num_classes, image_size):
        raise refusal


def _is_same_on_features(model: nn.Module, model_name: str, num_classes: int, image_size: int) -> bool:
    """True if two images give the same logits as their features, (2, F), do."""
    images = torch.rand((2, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
    training = model.training
    with torch.no_grad(), global_state_kept():
        model.eval()
        with refusing_images(model_name, image_size):
            logits = model(images)
        features = features_of(model, images, num_classes)
        is_same = features.ndim == 2 and torch.allclose(logits, model(features), rtol=1e-3, atol=1e-5)
        model.train(training)
    return is_same


def features_of(model: nn.Module, images: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return what the head gets for normalized images (n, 3, H, W): features (n, F).

    Other threads may use the model meanwhile. Raises UsageError if the model has no head, or does not call it.
    """
    seen: list[torch.Tensor] = []
    name, caller = head_name(model, num_classes), threading.get_ident()

    def record(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if threading.get_ident() == caller:
            seen.append(inputs[0])

    if name is not None:
        hook = model.get_submodule(name).register_forward_pre_hook(record)
        try:
            model(images)
        finally:
            hook.remove()
    if not seen:
        raise UsageError(
            f"the network has no last layer with {num_classes} outputs, one per class, that its forward calls, so it "
            "has no features: end it in one, such as nn.Linear"
        )
    return seen[-1]
