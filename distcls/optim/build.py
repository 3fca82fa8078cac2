"""From the config to an optimizer: which parameters, in which groups, with which kernel."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distcls.config.imports import call_by_name, nearest
from distcls.config.settings import OptimConfig
from distcls.errors import UsageError, some_of


def _sgd(groups: list[dict], config: OptimConfig, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused or None
    )


def _adam(groups: list[dict], config: OptimConfig, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=config.lr, betas=_betas(config), eps=config.eps, fused=fused or None)


def _adamw(groups: list[dict], config: OptimConfig, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.lr, betas=_betas(config), eps=config.eps, fused=fused or None)


def _betas(config: OptimConfig) -> tuple[float, float]:
    return config.betas[0], config.betas[1]


OPTIMIZERS: dict[str, Callable[[list[dict], OptimConfig, bool], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
}

FUSED_DEVICES = ("cpu", "cuda", "mps")


def momenta_per_weight(config: OptimConfig) -> int:
    """How many numbers the optimizer keeps for each trained weight: an estimate, 2 for one of your own."""
    return {"sgd": 1, "adam": 2, "adamw": 2}.get(config.name, 2)


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters; each group carries its `lr_scale` and `names`."""
    groups = parameter_groups(config, model)
    if ":" in config.name:
        return call_by_name("optim.name", config.name, groups, lr=config.lr)
    if config.name not in OPTIMIZERS:
        raise UsageError(
            f"optim.name={config.name}: there is no such optimizer.{nearest(config.name, OPTIMIZERS)} "
            f"Known are {', '.join(OPTIMIZERS)}, and my_pkg.module:make for your own."
        )
    device = next(model.parameters()).device.type
    return OPTIMIZERS[config.name](groups, config, config.fused and device in FUSED_DEVICES)


def start_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD's momenta zeros to start from, which is what its first step assumes.

    Fused SGD makes them in its first step, but leaves them uninitialised if fp16 overflows in it, and goes on from
    whatever was in that memory.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else []:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def parameter_groups(config: OptimConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters with equal settings, in the order of the model.

    Norms and biases are what has fewer than two dimensions; they are not decayed, unless asked. A
    pattern of `optim.groups` that matches no parameter is an error.
    """
    _check_patterns(config, model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale, decay = _settings_of(config, name, parameter)
            group = groups.setdefault(
                (scale, decay), {"params": [], "names": [], "lr_scale": scale, "weight_decay": decay}
            )
            group["params"].append(parameter)
            group["names"].append(name)
    return list(groups.values())


def _settings_of(config: OptimConfig, name: str, parameter: nn.Parameter) -> tuple[float, float]:
    """The factor on the learning rate, and the weight decay, of one parameter."""
    own = next((group for group in config.groups if re.search(group.match, name)), None)
    if own is not None and own.weight_decay is not None:
        return own.lr_scale, own.weight_decay
    decayed = parameter.ndim >= 2 or config.decay_norms_and_biases
    return own.lr_scale if own else 1.0, config.weight_decay if decayed else 0.0


def _check_patterns(config: OptimConfig, model: nn.Module) -> None:
    names = [name for name, _ in model.named_parameters()]
    for group in config.groups:
        try:
            re.compile(group.match)
        except re.error as error:
            raise UsageError(f"optim.groups: {group.match!r} is not a regular expression: {error}.") from error
        if not any(re.search(group.match, name) for name in names):
            raise UsageError(
                f"optim.groups: no parameter's name matches {group.match!r}. "
                f"The model's parameters are {some_of(names, 6)}."
            )
