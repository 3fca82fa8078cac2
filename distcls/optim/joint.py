"""Combines several optimizers into one, with a single step and a single checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch


class JointOptimizer(torch.optim.Optimizer):
    """An optimizer whose parameter groups are those of its parts, in order; each part steps its own groups."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()
        # If all parts can, the step itself undoes the loss scale, without waiting for the device.
        self._step_supports_amp_scaling = all(getattr(p, "_step_supports_amp_scaling", False) for p in parts)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters once. Takes no closure."""
        for part in self.parts:
            for name in ("grad_scale", "found_inf"):  # set on this optimizer by torch.amp.GradScaler
                if hasattr(self, name):
                    setattr(part, name, getattr(self, name))
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state and groups of all parts, numbered consecutively."""
        self.state.clear()
        for part in self.parts:
            self.state.update(part.state)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore each part from a `state_dict`."""
        super().load_state_dict(state_dict)
        groups = iter(self.param_groups)
        for part in self.parts:
            own = [next(groups) for _ in part.param_groups]
            parameters = [parameter for group in own for parameter in group["params"]]
            state = {parameter: self.state[parameter] for parameter in parameters if parameter in self.state}
            # As torch does, a parameter without state (frozen so far) gets an empty one in its first step.
            part.__setstate__({"state": defaultdict(dict, state), "param_groups": own})
        self._share()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def _share(self) -> None:
        """Share the parts' group objects, so that a learning rate set here is also set there."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
