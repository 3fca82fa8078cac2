"""Finds the layers of a network whose outputs are laid out like the image: maps of a CNN, tokens of a ViT.

Nothing depends on names: hooks look at what each module returns when real images pass through the real network.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from distcls.inference.classifier import Classifier
from distcls.models.recomputation import blocks_of

SMALLEST = 2
"""Side of the smallest grid that counts: a single value has no place in the image."""


@dataclass(frozen=True)
class Layer:
    """A module whose output is a grid of values over the image."""

    name: str
    """As in named_modules."""
    call: int
    """Which of the module's calls in one pass, from 0: a module may be used more than once."""
    layout: Literal["channels first", "channels last", "tokens"]
    """(n, C, s, s), (n, s, s, C), or (n, k + s·s, C) with k further tokens, such as a class token, in front."""
    side: int
    """The grid has side × side values."""

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """Return an output of this layer, or its gradient, as (n, C, s, s)."""
        if self.layout == "tokens":
            output = output[:, output.shape[1] - self.side**2 :].unflatten(1, (self.side, self.side))
        return output if self.layout == "channels first" else output.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Output:
    """The output of a layer in one pass."""

    layer: Layer
    values: torch.Tensor
    is_pooled: bool
    """True if pooling has just made the grid smaller, so that an earlier output is the same in more detail."""


def spatial_outputs(classifier: Classifier, images: torch.Tensor) -> tuple[list[Output], torch.Tensor]:
    """Return the outputs of all layers that are grids, in the order in which they were computed, and the logits.

    images: (n, S, S, 3), on the classifier's device, with n > 1 so that other first dimensions are seen to be others.
    Modules deep inside a block are left out: attention computes things that only look like grids.
    """
    found: list[Output] = []
    calls: Counter[str] = Counter()
    pooled: set[int] = set()  # ids of tensors, which `found` keeps alive

    def look(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call, values = calls[name], first_tensor(output)
        calls[name] += 1
        layer = None if values is None else _layer(name, call, values, images)
        if values is None or layer is None:
            return
        before = first_tensor(inputs)
        if layer.layout == "tokens" and before is not None and values.shape[-1] > before.shape[-1]:
            return  # keys and values of attention
        has_weights = next(module.parameters(), None) is not None
        if not has_weights and before is not None and (id(before) in pooled or _side(before, images) != layer.side):
            pooled.add(id(values))
        found.append(Output(layer, values, id(values) in pooled))

    blocks = list(blocks_of(classifier.network))
    with ExitStack() as stack:
        for name, module in classifier.network.named_modules():
            if not _is_deep(name, blocks):
                stack.enter_context(hooked(module, lambda *seen, name=name: look(name, *seen)))
        logits = classifier.logits(images)
    return found, logits


@contextmanager
def hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    """Call hook(module, inputs, output) after each of the module's calls inside the block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def plain_view(classifier: Classifier) -> Iterator[Classifier]:
    """Give the same classifier in evaluation mode, without test-time augmentation; restore its modes afterwards.

    Gradients may be taken inside, whatever the caller's mode, and by kernels that are not deterministic: some have no
    other backward pass on a GPU.
    """
    plain = copy.copy(classifier)
    plain.tta = "none"  # type: ignore[assignment]
    modes = [(module, module.training) for module in classifier.modules()]
    kernels = torch.get_deterministic_debug_mode()
    try:
        plain.eval()
        torch.set_deterministic_debug_mode("default")
        with torch.inference_mode(False), torch.enable_grad():
            yield plain
    finally:
        torch.set_deterministic_debug_mode(kernels)
        for module, mode in modes:
            module.training = mode


def first_tensor(value: Any) -> torch.Tensor | None:
    """Return a tensor, or the first of several; None if there is none."""
    if isinstance(value, Sequence) and value:
        value = value[0]
    return value if isinstance(value, torch.Tensor) else None


def _is_deep(name: str, blocks: Sequence[str]) -> bool:
    """True for modules inside a block that are not its direct parts."""
    return any(name.startswith(f"{block}.") and "." in name[len(block) + 1 :] for block in blocks)


def _layer(name: str, call: int, output: torch.Tensor, images: torch.Tensor) -> Layer | None:
    """Return the layer with this output; None if the output is no grid."""
    side, shape = _side(output, images), output.shape
    if side is None:
        return None
    if len(shape) == 3:
        return Layer(name, call, "tokens", side)
    return Layer(name, call, "channels first" if shape[2] == shape[3] else "channels last", side)


def _side(output: torch.Tensor, images: torch.Tensor) -> int | None:
    """Return the side of an output's grid; None if it is no grid."""
    shape = output.shape
    if not output.is_floating_point() or len(shape) not in (3, 4) or shape[0] != len(images):
        return None
    if len(shape) == 3:
        side = math.isqrt(shape[1])
    else:
        side = shape[2] if shape[2] == shape[3] else shape[1] if shape[1] == shape[2] else 0
    return side if SMALLEST <= side <= images.shape[1] else None
