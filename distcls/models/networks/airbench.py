"""The network of cifar10-airbench (Keller Jordan, arXiv 2404.00498), which learns CIFAR-10 in a few epochs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from distcls.models.networks.cnn import check_image_size

WHITENING_KERNEL = 2
"""Pixels along a side of the patches that the first layer whitens."""

WHITENING_EPSILON = 5e-4
"""Added to the variances, so that directions in which images hardly vary are not blown up."""


class Airbench(nn.Module):
    """A frozen whitening layer, groups of two or three convolutions that start as identities, and a linear head.

    The whitening layer's weights come from the training images: `start_from_images`, which training calls once.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int],
        depth: int,
        batchnorm_momentum: float,
        head_std: float | None,
        head_scale: float,
    ) -> None:
        super().__init__()
        channels = 3 * WHITENING_KERNEL**2
        self.whiten = nn.Conv2d(3, 2 * channels, WHITENING_KERNEL)
        self.whiten.weight.requires_grad_(False)
        group = _group if depth == 2 else ResidualGroup
        groups = [group(before, after, batchnorm_momentum) for before, after in pairwise([2 * channels, *widths])]
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        if head_std is not None:
            with torch.no_grad():
                self.head.weight /= self.head.weight.std() / head_std
        self.head_scale = head_scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, num_classes) of images (n, 3, H, W)."""
        features = self.groups(F.gelu(self.whiten(images)))
        pooled = F.max_pool2d(features, list(features.shape[2:])).flatten(1)
        return self.head(pooled * self.head_scale)  # before the head, which must come last (models/head.py)

    @torch.no_grad()
    def start_from_images(self, images: torch.Tensor) -> None:
        """Set the first layer to whiten patches like those of images (n, 3, H, W), as the network sees them.

        Its filters are the eigenvectors of the patches' second moments, scaled to an output variance of 1, and the same
        with the opposite sign.
        """
        patches = F.unfold(images, WHITENING_KERNEL).double()  # (n, 12, patches)
        moments = torch.einsum("nip,njp->ij", patches, patches) / (patches.shape[0] * patches.shape[2])
        variances, directions = torch.linalg.eigh(moments)
        filters = directions.T / (variances[:, None] + WHITENING_EPSILON).sqrt()
        self.whiten.weight.copy_(torch.cat([filters, -filters]).view_as(self.whiten.weight))


def _group(channels_in: int, channels_out: int, momentum: float) -> nn.Sequential:
    return nn.Sequential(
        _convolution(channels_in, channels_out),
        nn.MaxPool2d(2),
        _norm(channels_out, momentum),
        nn.GELU(),
        _convolution(channels_out, channels_out),
        _norm(channels_out, momentum),
        nn.GELU(),
    )


class ResidualGroup(nn.Module):
    """A group of three convolutions, the last two of which are added to what the first passes on."""

    def __init__(self, channels_in: int, channels_out: int, momentum: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(channels_in, channels_out), _norm(channels_out, momentum)
        self.conv2, self.norm2 = _convolution(channels_out, channels_out), _norm(channels_out, momentum)
        self.conv3, self.norm3 = _convolution(channels_out, channels_out), _norm(channels_out, momentum)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (n, channels_out, H // 2, W // 2) for (n, channels_in, H, W)."""
        first = F.gelu(self.norm1(F.max_pool2d(self.conv1(features), 2)))
        second = F.gelu(self.norm2(self.conv2(first)))
        return F.gelu(self.norm3(self.conv3(second)) + first)


def _convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return a convolution whose first filters pass the input on (Dirac); the others are drawn as usual."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:channels_in])
    return convolution


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    """Return a BatchNorm that only shifts: its scale stays 1."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm


def airbench(
    num_classes: int,
    image_size: int,
    widths: Sequence[int] = (64, 256, 256),
    depth: int = 2,
    batchnorm_momentum: float = 0.4,
    head_std: float | None = 1.0,
    head_scale: float | None = None,
) -> Airbench:
    """Return the network of airbench94: 2.0 million parameters. Train it as configs/cifar10_airbench94.yaml does.

    depth: convolutions in each group, 2 or 3. head_std: standard deviation of the head's first weights; None: that of
    nn.Linear. head_scale: factor for the logits; the default is 1 / widths[-1].
    """
    check_image_size(image_size, 2 ** len(widths) + 1)
    if depth not in (2, 3):
        raise ValueError(f"depth={depth} is neither 2 nor 3")
    scale = 1 / widths[-1] if head_scale is None else head_scale
    return Airbench(num_classes, widths, depth, batchnorm_momentum, head_std, scale)
