"""Durations must become the same steps everywhere, to the step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import pytest

from distcls.config.durations import DURATION_PATTERN, Duration, describe_every, is_due, parse_duration, steps_at


@dataclass
class Plan:
    num_images: int = 1000
    global_batch_size: int = 64
    total_steps: int = 157


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("5", Duration(5, "step")),
        ("1e3", Duration(1000, "step")),
        ("5 steps", Duration(5, "step")),
        ("1 step", Duration(1, "step")),
        ("0 steps", Duration(0, "step")),
        ("1 epoch", Duration(1, "epoch")),
        ("0.5 epochs", Duration(0.5, "epoch")),
        (".25 epochs", Duration(0.25, "epoch")),
        ("10%", Duration(10, "percent")),
        ("2.5 %", Duration(2.5, "percent")),
    ],
)
def test_every_form_is_read(written: str, expected: Duration) -> None:
    assert parse_duration(written) == expected


@pytest.mark.parametrize(
    "written", ["", "five", "0.5", "0.5 steps", "-1 epoch", "-1", "3 epoches", "1 hour", "1 epoch\n2", "None"]
)
def test_anything_else_is_refused_with_the_valid_forms(written: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration.*'5 steps'.*'0.5 epochs'.*'10%'"):
        parse_duration(written)


def test_the_pattern_for_editors_needs_no_python_syntax() -> None:
    assert "(?P" not in DURATION_PATTERN
    assert re.search(DURATION_PATTERN, "3 epochs")


def test_steps_epochs_and_percent_become_steps() -> None:
    plan = Plan()
    assert steps_at(parse_duration("5 steps"), plan) == 5
    assert steps_at(parse_duration("1 epoch"), plan) == math.ceil(1000 / 64)
    assert steps_at(parse_duration("3 epochs"), plan) == math.ceil(3000 / 64)
    assert steps_at(parse_duration("10%"), plan) == 16
    assert steps_at(parse_duration("100%"), plan) == plan.total_steps


def test_a_decimal_means_what_was_written() -> None:
    # In floats 1.1 * 10 is 11.000000000000002, which would round up to 12.
    assert steps_at(parse_duration("1.1 epochs"), Plan(num_images=10, global_batch_size=1)) == 11
    # In floats 0.07 * 100 is 7.000000000000001.
    assert steps_at(parse_duration("7%"), Plan(total_steps=100)) == 7


@pytest.mark.parametrize("every", ["1 step", "7 steps", "1 epoch", "0.3 epochs", "1.7 epochs", "10%", "0.1%", "33.3%"])
@pytest.mark.parametrize(
    "plan", [Plan(), Plan(num_images=10, global_batch_size=64), Plan(64, 64, 40), Plan(65, 64, 41)]
)
def test_due_exactly_at_the_multiples_and_at_the_end(every: str, plan: Plan) -> None:
    duration = parse_duration(every)
    unit = {
        "step": 1,
        "epoch": Fraction(plan.num_images, plan.global_batch_size),
        "percent": Fraction(plan.total_steps, 100),
    }
    length = Fraction(str(duration.value)) * unit[duration.unit]
    multiples = {math.ceil(count * length) for count in range(1, 5000)} | {plan.total_steps}
    due = {step for step in range(plan.total_steps + 1) if is_due(step, duration, plan)}
    assert due == {step for step in multiples if step <= plan.total_steps}


def test_shorter_than_a_step_is_due_each_step() -> None:
    plan = Plan(num_images=10, global_batch_size=64, total_steps=20)
    assert all(is_due(step, parse_duration("1 epoch"), plan) for step in range(1, 21))


def test_nothing_is_due_before_the_first_step() -> None:
    assert not is_due(0, parse_duration("1 step"), Plan())


def test_due_does_not_slow_down_late_in_a_run() -> None:
    plan = Plan(num_images=10**9, global_batch_size=7, total_steps=10**15)
    step = math.ceil(Fraction(10**9, 7) * 10**6)
    assert is_due(step, parse_duration("1 epoch"), plan)
    assert not is_due(step + 1, parse_duration("1 epoch"), plan)


def test_every_zero_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer than zero"):
        is_due(1, parse_duration("0 steps"), Plan())


def test_every_is_said_with_its_unit() -> None:
    said = {written: describe_every(written) for written in ("5", "1", "1 epoch", "0.5 epochs", "10%")}
    assert list(said.values()) == ["every 5 steps", "every step", "every epoch", "every 0.5 epochs", "every 10%"]
