"""Checks every value of a space against the settings it is for, before the first trial."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from distcls.config.settings import Config
from distcls.errors import UsageError
from distcls.sweeps.search.plan import Plan, Read
from distcls.sweeps.search.space import VARIANT, Point


def check_values(plan: Plan, read: Read) -> None:
    """Raise UsageError for a value that no trial could have; its message names the setting and its range.

    A value may be right only together with others, such as loss.gamma with loss.name=focal. So a value is wrong if it
    is wrong beside the first and beside the last values of the other dimensions, and with the config alone.
    """
    mistakes = []
    for dimension in plan.space.dimensions:
        for value in dimension.extremes():
            errors = [_refusal(plan, read, point) for point in plan.space.points_with({dimension.name: value})]
            if errors[0] and all(errors):
                mistakes.append(errors[0])
    if len(mistakes) > 1:
        raise UsageError(f"the space has {len(mistakes)} mistakes:\n  " + "\n  ".join(mistakes))
    if mistakes:
        raise UsageError(mistakes[0])
    _check_seeds(plan, read)
    _check_networks(plan, read)


def _check_seeds(plan: Plan, read: Read) -> None:
    """Raise UsageError for a variant with a seed, which --seeds would replace."""
    for point, config in _configs(plan, read):
        seed = config.train.seed
        if plan.num_seeds > 1 and config.is_given("train.seed") and seed != plan.first_seed:
            raise UsageError(
                f"variant {point[VARIANT]} sets train.seed={seed}, and --seeds sets it too: leave one of them out"
            )


def _check_networks(plan: Plan, read: Read) -> None:
    """Raise UsageError for limits on networks that a preset chooses: the choice depends on the machine that trains."""
    if plan.space.searches("model.name") or not plan.limits.given():
        return
    for point, config in _configs(plan, read):
        if config.may_have_preset and not config.is_given("model.name"):
            preset = "" if config.preset == "auto" else f" {config.preset}"
            raise UsageError(
                f"{_of_variant(point)}--max-params and the other limits need a network that is known before training, "
                f"but the preset{preset} chooses one when a run starts: add model.name=NAME or --preset none"
            )


def _configs(plan: Plan, read: Read) -> Iterator[tuple[Point, Config]]:
    """Yield each combination of variant and preset with its config: these can set the seed and the network."""
    some = [dimension for dimension in plan.space.dimensions if dimension.name in (VARIANT, "preset")]
    for values in itertools.product(*[dimension.choices for dimension in some]):
        point = dict(zip([dimension.name for dimension in some], values, strict=True))
        try:
            config = read(plan.words(point))
        except UsageError:  # it may be right together with other values
            continue
        yield point, config


def _of_variant(point: Point) -> str:
    return f"variant {point[VARIANT]}: " if VARIANT in point else ""


def _refusal(plan: Plan, read: Read, point: Point) -> str | None:
    """Return why there is no run with these settings, or None."""
    try:
        read(plan.words(point))
    except UsageError as error:
        return f"{_of_variant(point)}{error}"
    return None
