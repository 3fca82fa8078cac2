"""The head of a classifier: its last layer, which turns features into one number per class."""

from __future__ import annotations

import torch
from torch import nn

from distcls.errors import UsageError
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

    Models such as DeiT and LeViT have two, whose outputs they average: the last one, head_dist, learned from a teacher.
    """
    last = head_name(model, num_classes)
    if last is None:
        return []
    twin = f"{last}.".replace("_dist.", ".").removesuffix(".")
    return [last] if twin == last or twin not in dict(model.named_modules()) else [twin, last]


def head_parameters(model: nn.Module, num_classes: int) -> list[str]:
    """Return the names of the head's parameters; none if there is no head."""
    heads = head_names(model, num_classes)
    return [f"{head}.{name}" for head in heads for name, _ in model.get_submodule(head).named_parameters()]


def train_head_only(model: nn.Module, num_classes: int, image_size: int) -> None:
    """Freeze all but the head, and let the model also take features (n, F) instead of images.

    Raises UsageError if the model does not end in a linear layer.
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
    if not _is_same_on_features(model, num_classes, image_size):  # something follows the head, such as a temperature
        raise refusal


def _is_same_on_features(model: nn.Module, num_classes: int, image_size: int) -> bool:
    """True if two images give the same logits as their features do."""
    images = torch.rand((2, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
    training = model.training
    with torch.no_grad(), global_state_kept():
        model.eval()
        logits = model(images), model(features_of(model, images, num_classes))
        model.train(training)
    return torch.allclose(*logits, rtol=1e-3, atol=1e-5)


def features_of(model: nn.Module, images: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return what the head gets for normalized images (n, 3, H, W): features (n, F)."""
    seen: list[torch.Tensor] = []
    head = model.get_submodule(head_name(model, num_classes) or "")
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(images)
    finally:
        hook.remove()
    return seen[-1]
