"""Takes a network apart: each module's output shape, parameters and FLOPs, counted by passing one image through it."""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distcls.errors import UsageError
from distcls.plan.randomness import global_state_kept

CONVENTION = "1 multiply-add = 2 FLOPs"
"""How FLOPs are counted here. Many papers call a multiply-add one FLOP, and report half as many."""


@dataclass(frozen=True)
class Layer:
    """One module of a network, with everything inside it."""

    name: str
    """As in named_modules: "layer1.0.conv1", and "" for the whole network."""
    kind: str
    """Its class, such as Conv2d."""
    output_shape: tuple[int, ...] | None
    """For one image, without the batch dimension; None if the module was not called or returned no tensor."""
    num_parameters: int
    num_trainable: int
    flops: int
    """For one image; see CONVENTION. Convolutions, matrix products and attention count, elementwise operations do
    not."""

    @property
    def depth(self) -> int:
        """Return 0 for the whole network, 1 for its parts, 2 for their parts …"""
        return self.name.count(".") + 1 if self.name else 0

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "name": self.name,
            "type": self.kind,
            "output_shape": self.output_shape,
            "parameters": self.num_parameters,
            "trainable_parameters": self.num_trainable,
            "flops": self.flops,
        }


def layer_table(network: nn.Module, image_size: int) -> list[Layer]:
    """Return a Layer for the network and for each module in it, a module before its parts.

    The network stays as it is: the image passes through a copy that has shapes but no numbers or, if the network cannot
    run like that, through a real copy. Raises UsageError if that fails, too.
    """
    try:
        shapes, flops = _pass_image(without_numbers(network), image_size)
    except Exception:  # a user's model may look at the numbers
        try:
            shapes, flops = _pass_image(copy.deepcopy(network), image_size)
        except Exception as error:
            raise UsageError(
                f"the model fails on an image of {image_size} pixels: {_first_line(error)}. If it needs images of "
                "another size, set data.image_size=N."
            ) from error
    return [
        Layer(
            name,
            type(module).__name__,
            shapes.get(name),
            sum(p.numel() for p in module.parameters()),
            sum(p.numel() for p in module.parameters() if p.requires_grad),
            flops[name],
        )
        for name, module in network.named_modules()
    ]


def count_flops(network: nn.Module, image_size: int) -> int:
    """Return the FLOPs for one image (see CONVENTION). The network, which may be on the meta device, gets frozen."""
    with _counting() as counter:
        _run(network, image_size)
    return counter.get_total_flops()


def _pass_image(network: nn.Module, image_size: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Return each module's output shape and FLOPs, by name. The network may be changed."""
    shapes: dict[str, tuple[int, ...]] = {}
    flops: dict[str, int] = defaultdict(int)
    began: dict[str, list[int]] = defaultdict(list)
    with _counting() as counter:
        for name, module in network.named_modules():

            def begin(*_: Any, name: str = name) -> None:
                began[name].append(counter.get_total_flops())

            def end(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                flops[name] += counter.get_total_flops() - began[name].pop()
                shape = _shape(output)
                if shape is not None:
                    shapes[name] = shape

            module.register_forward_pre_hook(begin)
            module.register_forward_hook(end)
        _run(network, image_size)
    for name, module in reversed(list(network.named_modules())):
        if name not in flops:  # not called itself, as a ModuleList
            flops[name] = sum(flops[f"{name}.{child}"] for child, _ in module.named_children())
    return shapes, flops


@contextlib.contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Count FLOPs in the block, without gradients."""
    # torch's fast path for attention is a single operation, which the counter does not know.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with global_state_kept(), torch.no_grad(), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _run(network: nn.Module, image_size: int) -> None:
    """Pass a black image through a network, and freeze it."""
    # The counter fails on a module whose input is a trainable parameter, such as the class token of a ViT.
    network.eval().requires_grad_(False)
    parameter = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    network(torch.zeros(1, 3, image_size, image_size, dtype=parameter.dtype, device=parameter.device))


def _shape(output: Any) -> tuple[int, ...] | None:
    """Return the shape of an output, or of the first of several, without the dimension of a batch of one image."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        return None
    shape = tuple(output.shape)
    return shape[1:] if shape[:1] == (1,) else shape


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def num_bytes(network: nn.Module) -> int:
    """Return the size of a network's parameters and buffers, as they are saved."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def without_numbers(network: nn.Module) -> nn.Module:
    """Return a copy whose parameters and buffers are on the meta device, without ever copying their numbers."""
    memo: dict[int, torch.Tensor] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in network.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(network, memo)
