"""Loads weights from a file into a module."""

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
