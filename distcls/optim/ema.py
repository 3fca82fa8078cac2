"""An exponential moving average of the weights, which is evaluated and kept instead of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


def build_ema(module: nn.Module) -> nn.Module:
    """A copy of the model that only averages."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float, step: int, moved: torch.Tensor | None = None) -> None:
    """Move the average towards the weights. It is shorter at first, so that it forgets where it started.

    min(decay, (1 + step) / (10 + step)) is TensorFlow's ExponentialMovingAverage with num_updates. moved: () on the
    device, 0 where the step moved no weights, so that the average stays too; None: it did.
    """
    decay = min(decay, (1 + step) / (10 + step))
    averages: list[torch.Tensor] = list(ema.parameters())
    weights: list[torch.Tensor] = list(module.parameters())
    if moved is None:
        torch._foreach_lerp_(averages, weights, 1 - decay)
    else:
        torch._foreach_lerp_(averages, weights, [moved * (1 - decay)] * len(weights))


@torch.no_grad()
def copy_buffers(ema: nn.Module, module: nn.Module) -> None:
    """Give the average the model's buffers as they are: they may be anything, such as counters.

    Those that a forward pass makes, or gives another shape, are left to the average's own.
    """
    theirs = dict(module.named_buffers())
    for name, mine in ema.named_buffers():
        if name in theirs and theirs[name].shape == mine.shape:
            mine.copy_(theirs[name])
