"""What is minimised: a function from logits and targets to one number per image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from distcls.config import LossConfig
from distcls.errors import UsageError
from distcls.imports import import_by_name, nearest

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LOSSES: dict[str, Callable[[LossConfig], Loss]] = {
    "cross_entropy": lambda config: partial(F.cross_entropy, label_smoothing=config.label_smoothing, reduction="none"),
}


def build_loss(config: LossConfig) -> Loss:
    """loss(logits (m, C), targets (m,) class ids or (m, C) shares) -> (m,), one number per image.

    It is per image because the sum over the global batch is taken elsewhere, in one order (gradients.py).
    """
    if ":" in config.name:
        return _checked(config.name, import_by_name("loss.name", config.name))
    if config.name not in LOSSES:
        raise UsageError(
            f"loss.name={config.name}: there is no such loss.{nearest(config.name, LOSSES)} "
            f"Known are {', '.join(LOSSES)}, and my_pkg.module:loss for your own."
        )
    return LOSSES[config.name](config)


def _checked(name: str, loss: Loss) -> Loss:
    """A mean would be divided by the number of images twice, and train too slowly without a word."""

    def checked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = loss(logits, targets)
        if losses.shape != logits.shape[:1]:
            raise UsageError(
                f"loss.name={name} gave a result of shape {tuple(losses.shape)}, expected one number per image, "
                f"{tuple(logits.shape[:1])}: leave out its mean, as with reduction='none'."
            )
        return losses

    return checked
