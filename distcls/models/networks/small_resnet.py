"""Residual networks for small images such as CIFAR-10's (He et al., arXiv 1512.03385), of any width and depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from distcls.models.networks.stages import in_stages


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


class _Residual(nn.Module):
    """relu(shortcut(x) + f(x)), where f is two 3×3 convolutions, of which the first may halve the image."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        last_norm = nn.BatchNorm2d(channels_out)
        self.convolutions = nn.Sequential(
            *_convolution(channels_in, channels_out, stride),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            last_norm,
        )
        self.shortcut = nn.Sequential()
        if channels_in != channels_out or stride > 1:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))
        # A block starts as its shortcut alone, which makes high learning rates safe (Goyal et al., arXiv 1706.02677).
        nn.init.zeros_(last_norm.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.shortcut(features) + self.convolutions(features))


def _check_stages(widths: Sequence[int], blocks: Sequence[int]) -> None:
    if not widths or len(widths) != len(blocks) or min(blocks) < 1:
        raise ValueError(
            f"widths={list(widths)} and blocks={list(blocks)}, expected one width and one or more blocks for each stage"
        )


def small_resnet(
    num_classes: int,
    image_size: int,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (2, 2, 2, 2),
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return ResNet-18 with a 3×3 stem and no max pooling, for images of any size: 11.2 million parameters.

    widths: channels of each stage; each stage but the first halves the image. blocks: residual blocks of each stage.
    The original paper's ResNet-20 for CIFAR-10 has widths 16, 32, 64 and blocks 3, 3, 3.
    """
    _check_stages(widths, blocks)
    return in_stages(_convolution(3, widths[0]), _Residual, widths, blocks, num_classes, dropout)


def tiny_resnet(
    num_classes: int,
    image_size: int,
    widths: Sequence[int] = (32, 72),
    blocks: Sequence[int] = (1, 2),
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return a residual network that is fast on CPUs, because its stem halves the image: 188 thousand parameters.

    widths and blocks are those of small_resnet. The stem has half of the first width, then all of it.
    """
    _check_stages(widths, blocks)
    stem = [*_convolution(3, widths[0] // 2), *_convolution(widths[0] // 2, widths[0], stride=2)]
    return in_stages(stem, _Residual, widths, blocks, num_classes, dropout)
