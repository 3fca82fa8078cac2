"""Muon: momentum SGD whose update of each weight matrix is made orthogonal (Keller Jordan,
https://kellerjordan.github.io/posts/muon). torch.optim.Muon takes matrices only; this one takes filters, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: its slope at zero is as steep as possible, and singular values end between 0.7 and 1.2."""

NUM_ITERATIONS = 3


class Muon(torch.optim.Optimizer):
    """Moves each weight by lr × the orthogonalised momentum, with the weight seen as a matrix of (outputs, the rest).

    normalize_weights: scale each weight to a Frobenius norm of √outputs before every step, instead of weight decay,
    as cifar10-airbench does. weight_decay is decoupled, as in AdamW. The size of a gradient does not matter.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        normalize_weights: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "normalize_weights": normalize_weights,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient. Takes no closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"]
        momentum.mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
        if group["normalize_weights"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        elif group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        update = orthogonalized(direction.reshape(len(direction), -1)).view(direction.shape)
        parameter.add_(update.to(parameter.dtype), alpha=-group["lr"])


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix with the same singular vectors as (m, n), and singular values near 1, by Newton–Schulz steps.

    A GPU computes in bf16, which is precise enough; on a CPU the matrix keeps its type.
    """
    found = matrix.bfloat16() if matrix.device.type == "cuda" else matrix.clone()
    is_tall = len(found) > found.shape[1]
    found = found.T if is_tall else found
    found = found / (found.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.T if is_tall else found
