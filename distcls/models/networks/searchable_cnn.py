"""A small convolutional network whose width, depth and kernels are arguments, for searches (`distcls sweep`)."""

from __future__ import annotations

import torch
from torch import nn

from distcls.models.networks.cnn import check_image_size
from distcls.models.networks.stages import in_stages


class _Block(nn.Module):
    """relu(norm(convolution(x))), plus x where the shapes allow it (He et al., arXiv 1512.03385)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, separable: bool) -> None:
        super().__init__()
        if separable:  # a filter for each channel, then 1 × 1 (Howard et al., arXiv 1704.04861)
            depthwise = nn.Conv2d(channels_in, channels_in, kernel, stride, kernel // 2, groups=channels_in, bias=False)
            convolutions = [depthwise, nn.Conv2d(channels_in, channels_out, 1, bias=False)]
        else:
            convolutions = [nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)]
        self.body = nn.Sequential(*convolutions, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))
        self.keeps_shape = channels_in == channels_out and stride == 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        changed = self.body(features)
        return features + changed if self.keeps_shape else changed


def searchable_cnn(
    num_classes: int,
    image_size: int,
    width: int = 32,
    depth: int = 1,
    kernel: int = 3,
    stages: int = 3,
    growth: float = 2.0,
    stem_stride: int = 1,
    separable: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return a network of any width, depth and kernel: 298 thousand parameters with the defaults, at any image size.

    width: channels of the first stage; each later one halves the image and has `growth` times as many. depth: blocks
    of a stage that keep the shape, after the one that changes it. kernel: size of all filters but the stem's 3 × 3,
    an odd number. stem_stride: 2 halves the image at once, which makes the network four times as fast. separable:
    filters for each channel alone, with far fewer parameters.
    """
    if min(width, stages, stem_stride) < 1 or depth < 0 or kernel < 1 or kernel % 2 == 0 or growth <= 0:
        raise ValueError(
            f"width={width}, depth={depth}, kernel={kernel}, stages={stages}, growth={growth} and "
            f"stem_stride={stem_stride}, expected an odd kernel, a depth of 0 or more, and the others above 0"
        )
    check_image_size(image_size, stem_stride * 2 ** (stages - 1))
    stem = [nn.Conv2d(3, width, 3, stem_stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    widths = [max(round(width * growth**stage), 1) for stage in range(stages)]

    def block(before: int, after: int, stride: int) -> nn.Module:
        return _Block(before, after, kernel, stride, separable)

    return in_stages(stem, block, widths, [depth + 1] * stages, num_classes, dropout, "stage")
