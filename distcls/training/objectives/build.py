"""Builds an objective by name: the built-in ones are listed here, any other is `my_pkg.module:make`."""

from __future__ import annotations

from collections.abc import Callable

from distcls.config.imports import call_by_name
from distcls.config.settings import ObjectiveConfig
from distcls.config.wording import nearest
from distcls.errors import UsageError
from distcls.training.objectives.objective import Objective, Task
from distcls.training.objectives.proxy_selection import ProxySelection
from distcls.training.objectives.supervised import Supervised

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "supervised": Supervised,
    "proxy_selection": ProxySelection,
}


def check_objective_name(name: str) -> None:
    """Raise UsageError unless the name is that of a built-in objective, or has a colon: your own is built later."""
    if ":" not in name and name not in OBJECTIVES:
        raise UsageError(
            f"objective.name={name}: no such objective.{nearest(name, OBJECTIVES)} Give one of "
            f"{', '.join(OBJECTIVES)}, or my_pkg.module:make for your own."
        )


def build_objective(config: ObjectiveConfig, task: Task) -> Objective:
    """Return the objective of a run. Raises UsageError if the name is unknown or the arguments do not fit."""
    if ":" in config.name:
        objective = call_by_name("objective.name", config.name, task, **config.args)
        if not isinstance(objective, Objective):
            raise UsageError(
                f"objective.name={config.name} returned a {type(objective).__name__}, expected an Objective: derive it "
                "from distcls.training.objectives.objective.Objective."
            )
        return objective
    check_objective_name(config.name)
    try:
        return OBJECTIVES[config.name](task, **config.args)
    except TypeError as error:
        raise UsageError(f"objective.args={config.args} do not fit objective.name={config.name}: {error}.") from error
