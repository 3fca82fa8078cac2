"""Builds the loss, a function from logits and targets to one number per image, and the weights of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from distcls.config.imports import import_by_name
from distcls.config.settings import LossConfig
from distcls.config.wording import nearest
from distcls.errors import UsageError, some_of

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LOSSES: dict[str, Callable[[LossConfig, torch.Tensor | None], Loss]] = {
    "cross_entropy": lambda config, weights: partial(
        F.cross_entropy, weight=weights, label_smoothing=config.label_smoothing, reduction="none"
    ),
    "focal": lambda config, weights: partial(
        focal, gamma=config.gamma, weight=weights, label_smoothing=config.label_smoothing
    ),
}


def build_loss(config: LossConfig, class_weights: torch.Tensor | None = None) -> Loss:
    """Return loss(logits (m, C), targets (m,) class ids or (m, C) shares) -> (m,), one number per image.

    It is per image because step.py divides by the number of images in the global batch, weighted or not, and
    gradients.py sums over it in a fixed order. class_weights: (C,), see `weigh_classes`.
    """
    if ":" in config.name:
        return _checked(config.name, partial(import_by_name("loss.name", config.name), **config.args))
    if config.name not in LOSSES:
        raise UsageError(
            f"loss.name={config.name}: there is no such loss.{nearest(config.name, LOSSES)} "
            f"Known: {', '.join(LOSSES)}, and my_pkg.module:loss for your own."
        )
    return LOSSES[config.name](config, class_weights)


def focal(
    logits: torch.Tensor, targets: torch.Tensor, gamma: float, weight: torch.Tensor | None, label_smoothing: float
) -> torch.Tensor:
    """Return cross entropy times (1 - p)^gamma, which is small for well-learned images (Lin et al., arXiv 1708.02002).

    Like cross entropy it is a sum over classes, so that targets may be mixed or smoothed.
    """
    log_probs = F.log_softmax(logits, 1)
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1]).to(log_probs.dtype)
    targets = targets * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    # The gradient of x^gamma at 0 is infinite if gamma < 1.
    rest = (-torch.expm1(log_probs)).clamp_min(torch.finfo(log_probs.dtype).eps)
    losses = -targets * rest**gamma * log_probs
    return (losses if weight is None else losses * weight).sum(1)


def weigh_classes(config: LossConfig, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray | None:
    """Return a weight for each class, float64 (C,), or None if all weigh the same.

    labels: (n,), of the training images; their mean weight is 1, so that the learning rate keeps its meaning.
    Raises UsageError for a name that is not a class.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if config.class_weights == "none":
        return None
    if config.class_weights == "balanced":
        weights = 1 / counts
    elif config.class_weights == "effective":
        weights = 1 / (1 - config.beta**counts)  # Cui et al., arXiv 1901.05555
    else:
        weights = _given_weights(config.class_weights, class_names)
    return weights * len(labels) / (weights @ counts)


def _given_weights(given: dict[str, float], class_names: Sequence[str]) -> np.ndarray:
    for name in given:
        if name not in class_names:
            shown = some_of(class_names, 20)
            raise UsageError(
                f"loss.class_weights: there is no class {name!r}.{nearest(name, class_names)} The classes are {shown}."
            )
    return np.array([given.get(name, 1.0) for name in class_names])


def _checked(name: str, loss: Loss) -> Loss:
    """Raise UsageError if a loss is not per image: a mean would be divided twice and silently train too slowly."""

    def checked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = loss(logits, targets)
        if losses.shape != logits.shape[:1]:
            raise UsageError(
                f"loss.name={name} returned shape {tuple(losses.shape)}, expected one number per image, "
                f"{tuple(logits.shape[:1])}: do not take the mean, as with reduction='none'."
            )
        return losses

    return checked
