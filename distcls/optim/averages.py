"""Averages of the weights: the exponential one, which is evaluated and kept in their place, and that of lookahead."""

from __future__ import annotations

import copy

import torch
from torch import nn

from distcls.config.settings import LookaheadConfig


def build_copy(module: nn.Module) -> nn.Module:
    """Return a copy of the model that holds an average and is never trained."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float, step: int, moved: torch.Tensor | None = None) -> None:
    """Move the average towards the weights. Early steps count more, so that the initial weights are soon forgotten.

    The decay is min(decay, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage with num_updates.
    moved: () on the device, 0 if the step left the weights unchanged, as the average then must stay too; None: 1.
    """
    decay = min(decay, (1 + step) / (10 + step))
    averages: list[torch.Tensor] = list(ema.parameters())
    weights: list[torch.Tensor] = list(module.parameters())
    if moved is None:
        torch._foreach_lerp_(averages, weights, 1 - decay)
    else:
        torch._foreach_lerp_(averages, weights, [moved * (1 - decay)] * len(weights))


@torch.no_grad()
def look_ahead(slow: nn.Module, module: nn.Module, config: LookaheadConfig, step: int, total_steps: int) -> None:
    """Every few steps, move the slow weights toward the weights and copy them back; after the last step, only copy.

    After Zhang et al. (arXiv 1907.08610); the decay that grows during the run is cifar10-airbench's. step: steps done.
    """
    is_due = step % config.every == 0
    if not is_due and step < total_steps:
        return
    kept: list[torch.Tensor] = list(slow.parameters())
    weights: list[torch.Tensor] = list(module.parameters())
    if is_due:
        torch._foreach_lerp_(kept, weights, 1 - config.decay * (step / total_steps) ** config.power)
    torch._foreach_copy_(weights, kept)


@torch.no_grad()
def copy_buffers(ema: nn.Module, module: nn.Module) -> None:
    """Copy the model's buffers to the average, unchanged: they may be counters, which have no average.

    Buffers that a forward pass creates or resizes are skipped; the average keeps its own.
    """
    theirs = dict(module.named_buffers())
    for name, mine in ema.named_buffers():
        if name in theirs and theirs[name].shape == mine.shape:
            mine.copy_(theirs[name])
