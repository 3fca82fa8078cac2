"""Lets the backward pass compute activations again, block by block, so that they need not be kept in memory.

Known as activation or gradient checkpointing (Chen et al., arXiv 1604.06174). The gradients are the same to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from distcls.errors import UsageError
from distcls.models.trial import outputs_with_gradient
from distcls.plan.randomness import global_state_kept, seed_everything

MOST_ROUNDING = 0.01
"""How far gradients of the same pass may be apart, relative to their norm: some kernels of GPUs add in any order."""

LISTS = (nn.Sequential, nn.ModuleList)
"""Modules whose children are blocks, if these have parts of their own."""


def recompute_activations(model: nn.Module, name: str, image_size: int, moving: Iterable[str]) -> None:
    """Keep only the inputs of the model's blocks for the backward pass, which computes the rest again.

    Models of timm know their own blocks; for others, see `blocks_of`. name: model.name, for messages. moving: buffers
    that a pass changes (models/trial.py). BatchNorm's are not among them: a second pass sets its statistics to the same
    values (training/statistics.py). Raises UsageError for a model without blocks, with such buffers in them, or whose
    gradients would change.
    """
    before = _gradients(model, image_size)
    refused = f"train.checkpoint_activations=true cannot be used with model.name={name}: "
    if hasattr(model, "set_grad_checkpointing"):
        parts = [""]
        try:
            model.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AssertionError, NotImplementedError) as error:
            raise UsageError(f"{refused}{error or 'the model does not support it'}. Leave it out.") from error
    else:
        blocks = blocks_of(model)
        parts = [f"{block}." for block in blocks]
        if not blocks:
            raise UsageError(
                f"{refused}it has no blocks to recompute, that is, modules with parts of their own in an "
                "nn.Sequential or nn.ModuleList. Leave it out, or use a smaller train.micro_batch_size."
            )
        for block in blocks.values():
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    twice = [buffer for buffer in moving if buffer.startswith(tuple(parts))]
    if twice:
        raise UsageError(f"{refused}each pass changes its buffer {twice[0]!r}, which would change twice. Leave it out.")
    try:
        again = _gradients(model, image_size)
    except RuntimeError as error:  # such as for a block that changes its input in place
        raise UsageError(f"{refused}a block cannot be recomputed: {error}. Leave it out.") from error
    for (parameter, one), other in zip(before.items(), again.values(), strict=True):
        if (one - other).norm() > MOST_ROUNDING * one.norm():
            raise UsageError(
                f"{refused}recomputed, a block gives a different gradient for {parameter!r}, because it draws random "
                "numbers that are not torch's or remembers earlier passes. Leave it out."
            )


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model's blocks by name: modules with parts of their own, in the outermost lists of such modules."""
    return dict(_blocks(model, ""))


def _blocks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        is_list = isinstance(child, LISTS) and any(list(part.children()) for part in child)
        if is_list or not isinstance(module, LISTS):
            yield from _blocks(child, f"{prefix}{name}.")
        elif list(child.children()):
            yield f"{prefix}{name}", child


def _gradients(model: nn.Module, image_size: int) -> dict[str, torch.Tensor]:
    """Return the gradients of a training pass of two images through a copy, by parameter, where there are any."""
    with global_state_kept():
        trial = copy.deepcopy(model).train()
        parameter = next(trial.parameters())
        images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
        seed_everything(parameter.device, 0, "model")
        floats = outputs_with_gradient(trial(images.to(parameter.device, parameter.dtype)))
        torch.stack([t.float().square().sum() for t in floats]).sum().backward()
        return {name: p.grad for name, p in trial.named_parameters() if p.grad is not None}
