"""Puts a network of stages together: a stem, stages of which each but the first halves the image, and a head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from distcls.models.networks.pooling import GlobalAveragePool


def in_stages(
    stem: list[nn.Module],
    block: Callable[[int, int, int], nn.Module],
    widths: Sequence[int],
    blocks: Sequence[int],
    num_classes: int,
    dropout: float,
    name: str = "layer",
) -> nn.Sequential:
    """Return the network. block: called with the channels before and after it, and its stride.

    widths: channels of each stage; the first are those of the stem. blocks: how many each stage has.
    name: of a stage, before its number.
    """
    layers: dict[str, nn.Module] = {"stem": nn.Sequential(*stem)}
    channels = widths[0]
    for stage, (width, num_blocks) in enumerate(zip(widths, blocks, strict=True), 1):
        first = block(channels, width, 1 if stage == 1 else 2)
        others = [block(width, width, 1) for _ in range(num_blocks - 1)]
        layers[f"{name}{stage}"] = nn.Sequential(first, *others)
        channels = width
    layers |= {
        "pool": GlobalAveragePool(),
        "dropout": nn.Dropout(dropout),
        "head": nn.Linear(channels, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))
