"""Loads weights from a file into a module, and converts those that it has."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


def load_weights(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Load all tensors of a module's state. Raises RuntimeError if names or shapes differ.

    Files do not store the layers' versions (`_metadata` of a state dict), and some models treat weights without one
    as old and convert them. Our files are always assumed to be of the current version.
    """
    state: OrderedDict[str, torch.Tensor] = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state)


def convert(module: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> None:
    """Give a module's real floating-point tensors another dtype, and move all of its tensors to a device.

    `nn.Module.to` would also convert complex ones, to their real part.
    """
    module._apply(lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None))


def to_channels_last(module: nn.Module) -> None:
    """Store a module's images and filters, (n, C, H, W), in torch's channels_last memory format.

    `nn.Module.to` would raise RuntimeError for tensors with five dimensions, such as filters of nn.Conv3d.
    """
    module._apply(lambda tensor: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor)
