"""Builds the optimizer from the config: all built-in kinds are listed here, any other is `my_pkg.module:make`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distcls.config.imports import call_by_name, import_by_name
from distcls.config.settings import OptimConfig
from distcls.config.wording import nearest
from distcls.errors import UsageError, some_of
from distcls.optim.groups import Group
from distcls.optim.joint import JointOptimizer
from distcls.optim.muon import Muon


@dataclass(frozen=True)
class Kind:
    """A built-in optimizer."""

    make: Callable[..., torch.optim.Optimizer]
    options: Callable[[OptimConfig], dict[str, Any]]
    """Returns the arguments that its parameter groups take from `optim.*`, apart from learning rate and decay."""
    num_momenta: int
    """How many numbers it keeps per weight."""
    takes_fused: bool = True
    """True if it has a fused kernel."""
    takes_vectors: bool = True
    """False if it moves only weights with two or more dimensions."""


OPTIMIZERS: dict[str, Kind] = {
    "sgd": Kind(torch.optim.SGD, lambda c: {"momentum": c.momentum, "nesterov": c.nesterov}, 1),
    "adam": Kind(torch.optim.Adam, lambda c: {"betas": (c.betas[0], c.betas[1]), "eps": c.eps}, 2),
    "adamw": Kind(torch.optim.AdamW, lambda c: {"betas": (c.betas[0], c.betas[1]), "eps": c.eps}, 2),
    "muon": Kind(
        Muon,
        lambda c: {"momentum": c.momentum, "nesterov": c.nesterov, "normalize_weights": c.normalize_weights},
        1,
        takes_fused=False,
        takes_vectors=False,
    ),
}

FUSED_DEVICES = ("cpu", "cuda", "mps")


def momenta_per_weight(config: OptimConfig) -> int:
    """Return how many numbers the optimizer keeps per trained weight, which is assumed to be 2 for your own."""
    names = [config.name, *(config.for_group(group).name for group in config.groups)]
    return max(OPTIMIZERS[name].num_momenta if name in OPTIMIZERS else 2 for name in names)


def check_optimizer_name(name: str) -> None:
    """Raise UsageError for a name that is none of OPTIMIZERS or code that can be imported."""
    if ":" in name:
        import_by_name("optim.name", name)
    elif name not in OPTIMIZERS:
        raise UsageError(
            f"optim.name={name}: there is no such optimizer.{nearest(name, OPTIMIZERS)} "
            f"Known: {', '.join(OPTIMIZERS)}, and my_pkg.module:make for your own."
        )


def build_optimizer(groups: Sequence[Group]) -> torch.optim.Optimizer:
    """Return one optimizer with a parameter group for each of these groups, which also has `lr_scale` and `names`.

    If the groups are of several kinds, a step of it is a step of each kind. Raises UsageError.
    """
    parts = [_build_part(list(same)) for _, same in itertools.groupby(groups, lambda group: group.kind)]
    return parts[0] if len(parts) == 1 else JointOptimizer(parts)


def _build_part(groups: list[Group]) -> torch.optim.Optimizer:
    settings = groups[0].settings
    if ":" in settings.name:
        optimizer = call_by_name(
            "optim.name", settings.name, [group.options() for group in groups], lr=settings.lr, **settings.args
        )
        if len(optimizer.param_groups) != len(groups):
            raise UsageError(
                f"optim.name={settings.name} has {len(optimizer.param_groups)} parameter groups, but was given "
                f"{len(groups)}: keep them as they are, since each has its own learning rate."
            )
        return optimizer
    check_optimizer_name(settings.name)
    kind, device = OPTIMIZERS[settings.name], groups[0].named[0][1].device.type
    if not kind.takes_vectors:
        _refuse_vectors(settings.name, groups)
    options = [group.options() | kind.options(group.settings) for group in groups]
    if not kind.takes_fused:
        return kind.make(options, lr=settings.lr)
    return kind.make(options, lr=settings.lr, fused=(settings.fused and device in FUSED_DEVICES) or None)


def _refuse_vectors(name: str, groups: list[Group]) -> None:
    vectors = [parameter for group in groups for parameter, values in group.named if values.ndim < 2]
    if vectors:
        raise UsageError(
            f"optim.name={name} moves matrices and filters, but {some_of(vectors, 3)} "
            f"{'has' if len(vectors) == 1 else 'have'} fewer than two dimensions: name another optimizer, and give it "
            "only the weights that it is for, such as optim.name=adamw "
            "'optim.groups=[{match: conv.*weight, name: muon, lr: 0.02}]'."
        )


def start_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Start SGD's momenta at zero, as its first step assumes.

    Fused SGD creates them in its first step, for all parameters at once: those of parameters that are still frozen then
    would be missing later. And if fp16 overflows in that step, it leaves them uninitialized and continues from whatever
    was in that memory.
    """
    for part in optimizer.parts if isinstance(optimizer, JointOptimizer) else [optimizer]:
        for group in part.param_groups if isinstance(part, torch.optim.SGD) else ():
            for parameter in group["params"] if group["momentum"] else ():
                part.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
