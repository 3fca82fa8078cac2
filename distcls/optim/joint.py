"""Several optimizers as one: a step of all is one call, and a checkpoint of all is one dict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class JointOptimizer(torch.optim.Optimizer):
    """Its parameter groups are those of the parts, in order; each part keeps its own way of stepping."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()
        # A loss scale is undone in the step itself, without waiting for the device, where all parts can do that.
        self._step_supports_amp_scaling = all(getattr(p, "_step_supports_amp_scaling", False) for p in parts)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters once. Takes no closure."""
        for part in self.parts:
            for name in ("grad_scale", "found_inf"):  # what torch.amp.GradScaler leaves here
                if hasattr(self, name):
                    setattr(part, name, getattr(self, name))
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return state and groups, numbered through all parts."""
        self.state.clear()
        for part in self.parts:
            self.state.update(part.state)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each part what `state_dict` has taken from it."""
        super().load_state_dict(state_dict)
        groups = iter(self.param_groups)
        for part in self.parts:
            own = [next(groups) for _ in part.param_groups]
            parameters = [parameter for group in own for parameter in group["params"]]
            state = {parameter: self.state[parameter] for parameter in parameters if parameter in self.state}
            part.__setstate__({"state": state, "param_groups": own})
        self._share()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def _share(self) -> None:
        """The groups here are those of the parts, so that a rate set on one is set on the other."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
