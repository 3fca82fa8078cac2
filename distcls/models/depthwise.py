"""Gives depthwise convolutions a backward pass in bf16 that is fast on a CPU.

The forward pass of oneDNN is fast in bf16, as is the backward pass of small kernels. But with a stride above 1 the
gradient of the images, and with kernels above 3 × 3 the gradient of the weights, take 4 to 40 times as long as in
float32: two thirds of a step of tf_efficientnet_lite0 at 224 pixels. Both can be computed by what is fast.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn import functional

FAST_KERNEL = 3
"""The largest kernel, in pixels, for which oneDNN computes the gradient of the weights fast."""


def speed_up_depthwise(network: nn.Module) -> None:
    """Replace the backward pass of the depthwise convolutions that would be slow in bf16.

    Weights and their names stay, and so do the numbers, but for rounding.
    """
    for layer in network.modules():
        if (type(layer) is nn.Conv2d or _is_timms(layer)) and _is_slow(layer):  # no class that may do something else
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]


def _is_timms(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """True for a convolution that pads as TensorFlow does, more at the bottom and at the right."""
    if not type(layer).__module__.startswith("timm."):
        return False
    from timm.layers import Conv2dSame  # takes a second

    return type(layer) is Conv2dSame


def _is_slow(layer: nn.Conv2d) -> bool:
    is_depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
    if not is_depthwise or layer.dilation != (1, 1) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    is_usual = all(pixels < size for pixels, size in zip(layer.padding, layer.kernel_size, strict=True))
    return is_usual and (max(layer.kernel_size) > FAST_KERNEL or max(layer.stride) > 1)


def _forward(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """Return what the layer does; without autocast, such as in float32, exactly that."""
    if not torch.is_autocast_enabled("cpu"):
        return type(layer).forward(layer, images)
    if _is_timms(layer):
        from timm.layers import pad_same

        images = pad_same(images, list(layer.kernel_size), list(layer.stride), list(layer.dilation))
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return Depthwise.apply(images.to(dtype), layer.weight.to(dtype), bias, layer.stride, layer.padding)  # type: ignore[return-value]


class Depthwise(torch.autograd.Function):
    """A convolution of each channel of images (n, C, H, W) with its own kernel, of weights (C, 1, kh, kw)."""

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weights: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> torch.Tensor:
        """Return the outputs (n, C, h, w)."""
        ctx.save_for_backward(images, weights)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(images, weights, bias, stride, padding, groups=len(weights))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of images, weights and bias."""
        images, weights = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images = of_weights = of_bias = None
        if ctx.needs_input_grad[0]:
            of_images = _gradient_of_images(gradient, images.shape, weights, ctx)
        if ctx.needs_input_grad[1]:
            of_weights = _gradient_of_weights(gradient, images, weights, ctx)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_images, of_weights, of_bias, None, None


def _gradient_of_images(
    gradient: torch.Tensor, of_images: torch.Size, weights: torch.Tensor, geometry: Any
) -> torch.Tensor:
    """Convolve the gradient, with zeros where the stride left out outputs, with the flipped kernels.

    of_images: their shape. geometry: has the stride and the padding.
    """
    (n, channels, height, width), (kh, kw) = of_images, weights.shape[2:]
    stride, padding = geometry.stride, geometry.padding
    shape = (n, channels, height + kh - 1, width + kw - 1)
    wide = torch.empty(shape, dtype=gradient.dtype, memory_format=torch.channels_last).zero_()
    top, left = kh - 1 - padding[0], kw - 1 - padding[1]
    steps_down, steps_right = ((size - 1) * step + 1 for size, step in zip(gradient.shape[2:], stride, strict=True))
    wide[:, :, top : top + steps_down : stride[0], left : left + steps_right : stride[1]] = gradient
    return functional.conv2d(wide, weights.flip(2, 3), groups=channels)


def _gradient_of_weights(
    gradient: torch.Tensor, images: torch.Tensor, weights: torch.Tensor, geometry: Any
) -> torch.Tensor:
    """Compute the gradient of parts of the kernels that are small enough to be fast, each from its own view.

    geometry: has the stride and the padding.
    """
    stride, padding = geometry.stride, geometry.padding
    (h, w), (kh, kw) = gradient.shape[2:], weights.shape[2:]
    part_h, part_w = min(kh, FAST_KERNEL), min(kw, FAST_KERNEL)
    padded = functional.pad(images, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else images
    part = weights[:, :, :part_h, :part_w].contiguous()
    result = torch.empty_like(weights)
    for i in _starts(kh):
        for j in _starts(kw):
            seen = padded[:, :, i : i + (h - 1) * stride[0] + part_h, j : j + (w - 1) * stride[1] + part_w]
            result[:, :, i : i + part_h, j : j + part_w] = torch.ops.aten.convolution_backward(
                gradient, seen, part, None, stride, (0, 0), (1, 1), False, (0, 0), len(weights), (False, True, False)
            )[1]
    return result


def _starts(size: int) -> list[int]:
    """Return where the parts of a kernel begin along one side, the last of which may overlap: 0, 2 of 5."""
    return sorted({max(min(start, size - FAST_KERNEL), 0) for start in range(0, size, FAST_KERNEL)})
