"""Weights from a file into a module."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


def load_weights(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Load all tensors of a module's state. Raises RuntimeError where their names or shapes are others.

    Files hold no versions of the layers (`_metadata` of a state dict), and some models rearrange themselves for
    weights without one, as of an old version. Ours are of the version that reads them.
    """
    state: OrderedDict[str, torch.Tensor] = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state)
