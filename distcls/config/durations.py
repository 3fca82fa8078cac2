"""Turns durations such as "5 steps", "0.5 epochs" and "10%" into steps, in one place and without rounding errors."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal, Protocol

DURATION_PATTERN = r"^([0-9]+(e[0-9]{1,2})?( ?steps?)?|[0-9]*\.?[0-9]+ ?(epochs?|%))$"
_FORMS = "write a whole number of steps (5 or '5 steps'), epochs ('1 epoch', '0.5 epochs') or a share ('10%')"


class Plan(Protocol):
    """The lengths that turn durations into steps; plan/batches.py has them."""

    @property
    def num_images(self) -> int: ...

    @property
    def global_batch_size(self) -> int: ...

    @property
    def total_steps(self) -> int: ...


@dataclass(frozen=True)
class Duration:
    """A length of training: a number of steps, of passes over the training set, or a percentage of all steps."""

    value: float
    unit: Literal["step", "epoch", "percent"]


@cache
def parse_duration(written: str) -> Duration:
    """Read "5", "5 steps", "0.5 epochs" or "10%". Raises ValueError, which lists the forms, for anything else."""
    text = written.strip()
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(f"{written!r} is not a duration: {_FORMS}")
    value = float(text.rstrip(" epochst%"))
    if text.endswith("%"):
        return Duration(value, "percent")
    return Duration(value, "epoch" if "epoch" in text else "step")


def describe_every(written: str) -> str:
    """Return a duration as an interval: "every 5 steps", "every epoch" or "every 10%"."""
    duration = parse_duration(written)
    if duration.unit == "percent":
        return f"every {duration.value:g}%"
    return f"every {duration.unit}" if duration.value == 1 else f"every {duration.value:g} {duration.unit}s"


def steps_at(duration: Duration, plan: Plan) -> int:
    """Return the number of completed steps after which this duration has passed, rounded up exactly."""
    return math.ceil(_exact_steps(duration, plan))


def is_due(completed_steps: int, every: Duration | str, plan: Plan) -> bool:
    """True if something that happens at this interval is due now. It is also due after the last step.

    An interval shorter than a step is due after every step. Raises ValueError for a duration of zero.
    """
    if completed_steps <= 0:
        return False
    length = _exact_steps(parse_duration(every) if isinstance(every, str) else every, plan)
    if length == 0:
        raise ValueError("nothing can happen every 0 steps: give a duration longer than zero")
    # The last multiple within these steps is due now unless the previous step had already reached it.
    last = completed_steps // length * length
    return last > completed_steps - 1 or completed_steps == plan.total_steps


def _exact_steps(duration: Duration, plan: Plan) -> Fraction:
    return _fraction(duration, plan.num_images, plan.global_batch_size, plan.total_steps)


@cache
def _fraction(duration: Duration, num_images: int, global_batch_size: int, total_steps: int) -> Fraction:
    # repr returns the decimal as written, so 0.1 epochs is exactly a tenth.
    value = Fraction(repr(duration.value))
    if duration.unit == "epoch":
        return value * num_images / global_batch_size
    if duration.unit == "percent":
        return value / 100 * total_steps
    return value
