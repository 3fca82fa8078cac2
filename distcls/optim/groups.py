"""Groups parameters that share settings, and gives each group's learning rate at a step."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from distcls.config.settings import OptimConfig, ParamGroupConfig
from distcls.errors import UsageError, some_of
from distcls.optim.depth import lr_scales
from distcls.optim.schedules import lr_at
from distcls.plan.batches import BatchPlan

Named = list[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Group:
    """Trainable parameters with equal settings."""

    settings: OptimConfig
    """`optim.*`, overridden by the group's own settings."""
    lr_scale: float
    weight_decay: float
    named: Named

    @property
    def kind(self) -> tuple[str, str]:
        """Groups of one kind can share an optimizer."""
        return self.settings.name, repr(self.settings.args)

    def options(self) -> dict[str, Any]:
        """Return the group in the form that torch's optimizers take."""
        return {
            "params": [parameter for _, parameter in self.named],
            "names": [name for name, _ in self.named],
            "lr_scale": self.lr_scale,
            "weight_decay": self.weight_decay,
        }


def group_parameters(
    config: OptimConfig, model: nn.Module, further: Mapping[str, nn.Module] | None = None
) -> list[Group]:
    """Return the groups of a model's trainable parameters, sorted by kind of optimizer, then in the model's order.

    further: other modules to train, whose parameters are named "NAME.…". Norms and biases, taken to be all parameters
    with fewer than two dimensions, get no weight decay unless the config says so. optim.layer_decay scales the learning
    rate of the model's layers by their depth; `further` is new like the head, with factor 1. Raises UsageError for a
    group in `optim.groups` that no trainable parameter joins.
    """
    named = list(model.named_parameters())
    for prefix, module in (further or {}).items():
        named += [(f"{prefix}.{name}", parameter) for name, parameter in module.named_parameters()]
    _check_patterns(config, [name for name, _ in named])
    _check_groups(config, [name for name, parameter in named if parameter.requires_grad])
    scales = lr_scales(config.layer_decay, model) if config.layer_decay != 1 else {}
    effective = [config, *(config.for_group(group) for group in config.groups)]
    groups: dict[tuple, Group] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            index = _group_of(name, config)
            own = ParamGroupConfig() if index is None else config.groups[index]
            settings = effective[0 if index is None else index + 1]
            decayed = own.weight_decay is not None or parameter.ndim >= 2 or config.decay_norms_and_biases
            decay = settings.weight_decay if decayed else 0.0
            scale = own.lr_scale * scales.get(name, 1.0)
            key = scale, decay, repr(dataclasses.replace(settings, weight_decay=0.0, groups=[]))
            groups.setdefault(key, Group(settings, scale, decay, [])).named.append((name, parameter))
    kinds = list(dict.fromkeys(group.kind for group in groups.values()))
    return sorted(groups.values(), key=lambda group: kinds.index(group.kind))


def lrs_at(step: int, groups: Sequence[Group], plan: BatchPlan) -> list[float]:
    """Return the learning rate of each group at a step: a pure function of the step."""
    settings = {id(group.settings): group.settings for group in groups}
    lrs = {key: lr_at(step, own, plan) for key, own in settings.items()}
    return [lrs[id(group.settings)] * group.lr_scale for group in groups]


def _group_of(name: str, config: OptimConfig) -> int | None:
    """Return the index of the first group in `optim.groups` that matches a parameter's name; None if none does."""
    return next((i for i, group in enumerate(config.groups) if re.search(group.match, name)), None)


def _check_patterns(config: OptimConfig, names: list[str]) -> None:
    for group in config.groups:
        if not group.match:
            raise UsageError(
                "optim.groups: a group has an empty match, which would take every parameter. Give it a regular "
                "expression to find in their names, such as match: head; settings of all parameters go into optim "
                "itself."
            )
        try:
            re.compile(group.match)
        except re.error as error:
            raise UsageError(f"optim.groups: {group.match!r} is not a regular expression: {error}.") from error
        if not any(re.search(group.match, name) for name in names):
            raise UsageError(
                f"optim.groups: no parameter name matches {group.match!r}. "
                f"The model's parameters are {some_of(names, 6)}."
            )


def _check_groups(config: OptimConfig, trained: list[str]) -> None:
    """Raise UsageError for a group that none of these trainable parameters joins."""
    joined = {name: _group_of(name, config) for name in trained}
    for index, group in enumerate(config.groups):
        matched = [name for name in trained if re.search(group.match, name)]
        if not matched:
            raise UsageError(
                f"optim.groups: {group.match!r} matches only frozen parameters, so it has no effect. Leave it out, or "
                "train them: see model.freeze and model.head_only."
            )
        if index not in joined.values():
            earlier = enumerate(config.groups[:index])
            takers = [repr(other.match) for i, other in earlier if any(joined[name] == i for name in matched)]
            raise UsageError(
                f"optim.groups: the parameters that {group.match!r} matches, such as {matched[0]}, are taken by the "
                f"group {' or '.join(takers)}, which comes before it. Put {group.match!r} first, or leave it out."
            )
