"""Checks every value of a space against the settings it is for, before the first trial."""

from __future__ import annotations

from collections.abc import Iterator

from distcls.errors import UsageError
from distcls.sweeps.search.plan import Plan, Read
from distcls.sweeps.search.space import VARIANT, Dimension, Point, Value


def check_values(plan: Plan, read: Read) -> None:
    """Raise UsageError for a value that no trial could have; its message names the setting and its range.

    A value may be right only together with others, such as loss.gamma with loss.name=focal. So a value is wrong if it
    is wrong beside the first and beside the last values of the other dimensions, and with the config alone.
    """
    mistakes = []
    for dimension in plan.space.dimensions:
        for value in dimension.extremes():
            errors = [error for point in _points_with(plan, dimension, value) if (error := _refusal(plan, read, point))]
            if len(errors) == len(list(_points_with(plan, dimension, value))):
                mistakes.append(errors[0])
    if len(mistakes) > 1:
        raise UsageError(f"the space has {len(mistakes)} mistakes:\n  " + "\n  ".join(mistakes))
    if mistakes:
        raise UsageError(mistakes[0])


def _points_with(plan: Plan, dimension: Dimension, value: Value) -> Iterator[Point]:
    others = [other for other in plan.space.dimensions if other.name != dimension.name]
    variants = [other for other in others if other.name == VARIANT]
    yield {**{other.name: other.extremes()[0] for other in variants}, dimension.name: value}
    for end in (0, -1):
        yield {**{other.name: other.extremes()[end] for other in others}, dimension.name: value}


def _refusal(plan: Plan, read: Read, point: Point) -> str | None:
    """Return why there is no run with these settings, or None."""
    try:
        read(plan.words(point))
    except UsageError as error:
        variant = f"variant {point[VARIANT]}: " if VARIANT in point else ""
        return f"{variant}{error}"
    return None
