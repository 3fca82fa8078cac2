"""Every image once an epoch, in batches that do not depend on who computes them."""

from __future__ import annotations

import numpy as np
import pytest

from distcls.config.settings import TrainConfig
from distcls.errors import UsageError
from distcls.plan.batches import BatchPlan, plan_batches


def stream(plan: BatchPlan, steps: int) -> np.ndarray:
    """The images of the first steps, one after the other."""
    return np.concatenate([plan.global_batch(step) for step in range(steps)])


@pytest.mark.parametrize(("num_images", "batch"), [(10, 4), (12, 4), (7, 7), (5, 12), (1, 3), (13, 1), (3, 10)])
def test_each_image_comes_once_in_every_epoch(num_images, batch):
    plan = BatchPlan(num_images, batch, 1, 10**6, seed=0)
    epochs = 6
    images = stream(plan, -(-epochs * num_images // batch))
    for epoch in range(epochs):
        of_epoch = images[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(of_epoch) == list(range(num_images))


def test_every_batch_is_full():
    plan = BatchPlan(10, 4, 2, 100, seed=0)
    assert {plan.global_batch(step).shape for step in range(20)} == {(4,)}


def test_the_order_is_pinned():
    """A new version that shuffles otherwise would change every run: these numbers may not change."""
    plan = BatchPlan(10, 4, 2, 100, seed=7)
    assert [plan.global_batch(step).tolist() for step in range(6)] == [
        *([5, 3, 6, 2], [8, 7, 4, 9], [1, 0, 5, 3], [4, 8, 7, 9], [0, 6, 1, 2], [9, 5, 3, 1]),
    ]
    assert BatchPlan(5, 12, 3, 9, seed=0).global_batch(0).tolist() == [4, 3, 1, 2, 0, 4, 0, 1, 3, 2, 3, 0]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {(s, e): tuple(BatchPlan(50, 50, 50, 9, s).global_batch(e)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9  # with seed + epoch it would be 5


def test_a_step_does_not_depend_on_what_was_asked_before():
    plan = BatchPlan(10, 4, 2, 100, seed=1)
    in_order = [plan.global_batch(step).tolist() for step in range(40)]
    plan = BatchPlan(10, 4, 2, 100, seed=1)
    backwards = [plan.global_batch(step).tolist() for step in reversed(range(40))]
    assert backwards[::-1] == in_order


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_the_ranks_cover_the_global_batch_in_order(world_size):
    plans = [BatchPlan(50, 24, 2, 9, 0, rank, world_size) for rank in range(world_size)]
    batch = np.arange(24)
    assert np.concatenate([batch[plan.rows] for plan in plans]).tolist() == batch.tolist()
    assert [index for plan in plans for index in plan.micro_batches] == list(range(12))
    for plan in plans:
        assert plan.grad_accum_steps * world_size == 12
        assert plan.rows.start == plan.micro_batches.start * plan.micro_batch_size


@pytest.mark.parametrize(
    ("num_epochs", "num_images", "batch", "steps"),
    [(1.0, 100, 10, 10), (0.5, 101, 10, 6), (2.5, 10, 4, 7), (2.5, 12, 4, 8), (0.1, 30, 3, 1), (3.0, 2, 64, 1)],
)
def test_epochs_become_steps_rounded_up(num_epochs, num_images, batch, steps):
    config = TrainConfig(num_epochs=num_epochs, global_batch_size=batch)
    assert plan_batches(config, num_images).total_steps == steps


def test_a_decimal_number_of_epochs_is_what_was_written():
    # In floats 1.1 * 10 / 1 is 11.000000000000002, which would become 12 steps.
    assert plan_batches(TrainConfig(num_epochs=1.1, global_batch_size=1), 10).total_steps == 11


def test_num_steps_is_the_number_of_steps():
    assert plan_batches(TrainConfig(num_epochs=None, num_steps=17), 1000).total_steps == 17


def test_the_micro_batch_is_the_share_of_a_process_unless_it_is_given():
    assert plan_batches(TrainConfig(global_batch_size=24), 100, 1, 4).micro_batch_size == 6
    given = plan_batches(TrainConfig(global_batch_size=24, micro_batch_size=3), 100, 1, 4)
    assert (given.micro_batch_size, given.grad_accum_steps, given.rows) == (3, 2, slice(6, 12))


@pytest.mark.parametrize(("sampling", "expected"), [("balanced", [1 / 3] * 3), ("square_root", [0.6, 0.3, 0.1])])
def test_sampling_draws_rare_classes_more_often(sampling, expected):
    labels = np.repeat([0, 1, 2], [3600, 900, 100])
    config = TrainConfig(global_batch_size=100, sampling=sampling)
    plan = plan_batches(config, 4600, labels=labels)
    drawn = stream(plan, 460)  # ten epochs
    assert np.bincount(labels[drawn]) / len(drawn) == pytest.approx(expected, abs=0.01)
    assert len(np.unique(drawn)) > 4500  # within a class all images alike
    assert plan.total_steps == 30 * 46


def test_sampled_batches_are_a_function_of_the_step_too():
    labels = np.repeat([0, 1], [9, 3])
    plan, again = (plan_batches(TrainConfig(global_batch_size=4, sampling="balanced"), 12, labels=labels) for _ in "12")
    plain = BatchPlan(12, 4, 4, 100, seed=0)
    in_order = [plan.global_batch(step).tolist() for step in range(20)]
    mixed = [(again.global_batch(step).tolist(), plain.global_batch(step).tolist()) for step in reversed(range(20))]
    assert [sampled for sampled, _ in mixed][::-1] == in_order
    first_epoch = [image for _, images in mixed[-3:] for image in images]
    assert sorted(first_epoch) == list(range(12)), "plans with and without sampling do not share orders"


def test_sizes_that_do_not_fit_are_an_error_that_lists_what_would():
    config = TrainConfig(global_batch_size=30, micro_batch_size=4)
    with pytest.raises(UsageError, match=r"train.global_batch_size=30 .* try train.micro_batch_size=3 or 5.*28 or 32"):
        plan_batches(config, 100)
    with pytest.raises(UsageError, match="power of two"):
        plan_batches(TrainConfig(global_batch_size=30, deterministic=True), 100, 0, 3)


def test_no_length_is_an_error():
    with pytest.raises(UsageError, match="give one of them"):
        plan_batches(TrainConfig(num_epochs=None), 10)


def test_the_epoch_is_a_share():
    assert BatchPlan(10, 4, 4, 9, 0).epoch(5) == 2.0
