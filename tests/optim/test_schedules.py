"""The learning rate at the steps where somebody would look."""

from __future__ import annotations

import itertools
import math
from itertools import pairwise

import pytest

from distcls.config.settings import OptimConfig
from distcls.optim.schedules import lr_at
from distcls.plan.batches import BatchPlan

PLAN = BatchPlan(num_images=100, global_batch_size=10, micro_batch_size=10, total_steps=100, seed=0)


def rates(**settings) -> list[float]:
    config = OptimConfig(lr=1.0, **settings)
    return [lr_at(step, config, PLAN) for step in range(101)]


def test_constant_is_constant():
    assert set(rates(schedule="constant")) == {1.0}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", ["10 steps", "1 epoch", "10%"])
def test_warmup_is_linear_and_reaches_the_peak_at_its_last_step(schedule, warmup):
    found = rates(schedule=schedule, warmup=warmup)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == pytest.approx(1.0)


def test_cosine_goes_from_the_peak_through_the_middle_to_the_end():
    found = rates(schedule="cosine", min_lr=0.2)
    assert found[0] == 1.0
    assert found[50] == pytest.approx(0.6)
    assert found[100] == pytest.approx(0.2)
    assert found[25] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert all(later < earlier for earlier, later in pairwise(found))


def test_cosine_after_warmup_is_stretched_over_what_is_left():
    found = rates(schedule="cosine", warmup="20 steps")
    assert found[60] == pytest.approx(0.5)
    assert found[100] == pytest.approx(0.0)


def test_step_multiplies_at_each_milestone():
    found = rates(schedule="step", milestones=["3 epochs", "60%", "90 steps"], gamma=0.5)
    assert found == [*[1.0] * 30, *[0.5] * 30, *[0.25] * 30, *[0.125] * 11]


def test_one_cycle_rises_for_30_percent_and_falls_to_the_end():
    found = rates(schedule="one_cycle", min_lr=0.01)
    assert found[0] == pytest.approx(1 / 25)
    assert found[15] == pytest.approx((1 + 1 / 25) / 2)
    assert found[30] == pytest.approx(1.0)
    assert found[65] == pytest.approx(0.505)
    assert found[100] == pytest.approx(0.01)
    assert found.index(max(found)) == 30


def test_one_cycle_rises_during_warmup_where_that_is_set():
    found = rates(schedule="one_cycle", warmup="5 steps")
    assert found.index(max(found)) == 5


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("total_steps", [1, 2, 3])
def test_the_shortest_runs_have_a_rate(schedule, total_steps):
    plan = BatchPlan(10, 10, 10, total_steps, 0)
    for warmup in ("0 steps", "1 step", "5 steps"):
        config = OptimConfig(lr=1.0, schedule=schedule, warmup=warmup)
        assert all(0 < lr_at(step, config, plan) <= 1 for step in range(total_steps))


def test_the_rate_does_not_depend_on_the_number_of_processes():
    config = OptimConfig(schedule="cosine", warmup="1 epoch")
    plans = [BatchPlan(100, 12, 3, 100, 0, rank=1, world_size=world_size) for world_size in (1, 2, 4)]
    assert len({tuple(lr_at(step, config, plan) for step in range(100)) for plan in plans}) == 1


def test_a_range_test_grows_exponentially_from_the_lowest_to_the_highest_rate():
    config = OptimConfig(lr=10.0, schedule="range_test", min_lr=1e-7)
    found = [lr_at(step, config, PLAN) for step in range(PLAN.total_steps)]
    assert found[0] == pytest.approx(1e-7) and found[-1] == pytest.approx(10.0)
    ratios = [after / before for before, after in itertools.pairwise(found)]
    assert min(ratios) == pytest.approx(max(ratios))
