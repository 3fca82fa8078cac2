"""Names the parts of a training step, for a profiler (`distcls benchmark`). Without one, a name costs nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.profiler import record_function

PARTS = ("data", "augment", "forward", "backward", "exchange", "optimizer")
"""In the order of a step. What processes exchange while the backward pass runs is a part of that."""

_NOTHING = nullcontext()


def part(name: str) -> AbstractContextManager[Any]:
    """Return a context whose block appears in a trace under one of PARTS."""
    return record_function(name) if torch.autograd._profiler_enabled() else _NOTHING
