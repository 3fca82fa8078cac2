"""Chooses the parameters that are not trained: never (model.freeze), or only from some step on (model.freeze_until)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from distcls.config.durations import Duration, Plan, parse_duration, steps_at
from distcls.config.settings import ModelConfig
from distcls.config.wording import nearest
from distcls.errors import UsageError
from distcls.models.head import head_parameters


def freeze(model: nn.Module, prefixes: list[str]) -> None:
    """Exclude modules from training, by name. Raises UsageError for a name that matches nothing."""
    for prefix in prefixes:
        for parameter in _parameters_in(model, prefix, "model.freeze").values():
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"model.freeze={prefixes} freezes the whole model: leave at least one part unfrozen.")


def frozen_until(config: ModelConfig, model: nn.Module, num_classes: int) -> dict[str, Duration]:
    """Return how long each parameter that model.freeze_until freezes stays so, by name.

    A duration alone is for everything but the head. Of several parts with the same parameter, the one with the longest
    name counts. Raises UsageError if there is no head, a part does not exist or is never trained anyway, or nothing
    would be left to train.
    """
    given = config.freeze_until
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    durations = config.frozen_parts
    head: list[str] = []
    if not isinstance(given, dict):
        if not parse_duration(given).value:
            return {}
        head = _head(model, num_classes, given)
    until: dict[str, Duration] = {}
    for part in sorted(durations, key=len):
        found = _parameters_in(model, part, "model.freeze_until") if part else trained
        names = [name for name in trained if name in found and name not in head]
        if not names:
            raise UsageError(
                f"model.freeze_until has no effect on {part or 'this model'}: model.freeze={config.freeze} already "
                "freezes it for the whole run. Leave out one of them."
            )
        until |= dict.fromkeys(names, parse_duration(durations[part]))
    if len(until) == len(trained):
        raise UsageError(f"model.freeze_until={given} leaves nothing to train at first: leave out one of the parts.")
    return until


def thaw_steps(until: Mapping[str, Duration], plan: Plan) -> dict[str, int]:
    """Return the step from which each parameter that is frozen at first is trained, by name."""
    return {name: steps_at(duration, plan) for name, duration in until.items()}


def frozen_at(step: int, thawed: Mapping[str, int]) -> frozenset[str]:
    """Return the parameters that are frozen at a step: a pure function of the step. thawed: as from `thaw_steps`."""
    return frozenset(name for name, first in thawed.items() if step < first)


def _head(model: nn.Module, num_classes: int, given: str) -> list[str]:
    names = head_parameters(model, num_classes)
    if not names:
        raise UsageError(
            f"model.freeze_until={given} trains only the head at first, but no layer of the model has {num_classes} "
            "outputs, one per class. Name the parts to freeze instead, such as model.freeze_until={backbone: "
            f"{given}}}. The model's parts are {', '.join(name for name, _ in model.named_children())}."
        )
    return names


def _parameters_in(model: nn.Module, prefix: str, setting: str) -> dict[str, nn.Parameter]:
    """Return the parameters of the module, or the one parameter, with this name. Raises UsageError if there is none."""
    matched = {name: p for name, p in model.named_parameters() if f"{name}.".startswith(f"{prefix}.")}
    if not matched:
        tops = [name for name, _ in model.named_children()]
        raise UsageError(
            f"{setting}: no parameter name begins with {prefix!r}.{nearest(prefix, tops)} "
            f"The model's parts are {', '.join(tops)}."
        )
    return matched
