"""Whole-batch augmentation does what a plain loop over images would, with numbers that no rank decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distcls.batches import BatchPlan
from distcls.config import AugmentConfig, NormalizeConfig
from distcls.data.augmentation import Augmentation, draw_numbers, mixup
from distcls.data.preprocessing import Normalize

CPU = torch.device("cpu")
PLAN = BatchPlan(num_images=100, global_batch_size=24, micro_batch_size=6, total_steps=100, seed=0)
NORMALIZE = Normalize.build(NormalizeConfig(), CPU, torch.float64, True)
ALL = AugmentConfig(pad_crop=3, flip=True, mixup=0.4)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_pixels(n=24, height=9, width=7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, height, width, 3)).astype(np.uint8))


def augmented(config: AugmentConfig, pixels: torch.Tensor, step: int = 0) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Pixels after augmentation, and the numbers."""
    numbers = draw_numbers(config, PLAN, step)
    images, _ = Augmentation(NORMALIZE, 3)(pixels, torch.zeros(len(pixels), dtype=torch.int64), numbers)
    return NORMALIZE.undo(images).numpy(), numbers


# Against a loop over images ------------------------------------------------------------------------


@pytest.mark.parametrize(("pad", "flip"), [(3, False), (0, True), (3, True), (1, True), (6, True)])
def test_crop_and_flip_are_those_of_a_loop_over_images(pad, flip):
    pixels = make_pixels()
    found, numbers = augmented(AugmentConfig(pad_crop=pad, flip=flip), pixels)
    for i, image in enumerate(pixels.numpy()):
        down, right = numbers["shift"][i].tolist() if pad else (0, 0)
        bordered = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        crop = bordered[pad + down : pad + down + 9, pad + right : pad + right + 7]
        expected = crop[:, ::-1] if flip and numbers["mirrored"][i] else crop
        assert np.array_equal(found[i], expected), f"image {i}"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_border_wider_than_the_image_is_reflected_again(size):
    pixels = make_pixels(height=size, width=size)
    found, numbers = augmented(AugmentConfig(pad_crop=5), pixels)
    for i, image in enumerate(pixels.numpy()):
        bordered = np.pad(image, ((5, 5), (5, 5), (0, 0)), mode="reflect")
        down, right = numbers["shift"][i].tolist()
        assert np.array_equal(found[i], bordered[5 + down : 5 + down + size, 5 + right : 5 + right + size])


def test_mixup_is_that_of_a_loop_over_images():
    images, labels = torch.randn(6, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    partner, share = (
        torch.tensor([1, 2, 3, 4, 5, 0]),
        torch.tensor([0.0, 1.0, 0.3, 0.5, 0.9, 0.25], dtype=torch.float64),
    )
    mixed, targets = mixup(images, labels, partner, share, 3)
    for i in range(6):
        own, other, s = images[i], images[partner[i]], share[i].item()
        torch.testing.assert_close(mixed[i], s * own + (1 - s) * other)
        expected = [0.0, 0.0, 0.0]
        expected[int(labels[i])] += s
        expected[int(labels[partner[i]])] += 1 - s
        assert targets[i].tolist() == pytest.approx(expected)


def test_nothing_is_changed_where_nothing_is_asked_for():
    pixels = make_pixels()
    found, numbers = augmented(AugmentConfig(), pixels)
    assert numbers == {}
    assert np.array_equal(found, pixels.numpy())


def test_labels_stay_class_ids_unless_mixed():
    labels = torch.tensor([2, 0, 1, 1, 0, 2])
    augment, pixels = Augmentation(NORMALIZE, 3), make_pixels(6)
    assert augment(pixels, labels, {})[1] is labels
    rows = {name: table[:6] for name, table in draw_numbers(ALL, PLAN, 0).items()}
    targets = augment(pixels, labels, rows)[1]
    assert targets.shape == (6, 3)
    torch.testing.assert_close(targets.sum(1), torch.ones(6, dtype=torch.float64))


def test_the_pixels_of_the_data_set_are_never_written():
    pixels = make_pixels()
    before = pixels.clone()
    augmented(ALL, pixels)
    assert torch.equal(pixels, before)


# The numbers ---------------------------------------------------------------------------------------


def test_numbers_are_a_function_of_seed_and_step():
    first, again, later = draw_numbers(ALL, PLAN, 3), draw_numbers(ALL, PLAN, 3), draw_numbers(ALL, PLAN, 4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], later[name]) for name in first)


def test_numbers_do_not_depend_on_the_ranks():
    plans = [BatchPlan(100, 24, 6, 100, 0, rank, world) for world in (1, 2, 4) for rank in range(world)]
    tables = [draw_numbers(ALL, plan, 7) for plan in plans]
    assert all(torch.equal(tables[0][name], table[name]) for table in tables for name in table)


def test_numbers_are_in_range_and_reach_both_ends():
    drawn = [draw_numbers(ALL, PLAN, step) for step in range(60)]
    shifts = torch.cat([numbers["shift"] for numbers in drawn])
    assert (shifts.min(), shifts.max()) == (-3, 3)
    assert set(shifts[:, 0].tolist()) == set(shifts[:, 1].tolist()) == set(range(-3, 4))
    mirrored = torch.cat([numbers["mirrored"] for numbers in drawn]).double().mean().item()
    assert mirrored == pytest.approx(0.5, abs=0.05)
    shares = torch.cat([numbers["share"] for numbers in drawn])
    assert 0 <= shares.min() < 0.1 and 0.9 < shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.1)


def test_partners_are_a_permutation_inside_each_micro_batch():
    numbers = draw_numbers(ALL, PLAN, 0)
    for partners, shares in zip(numbers["partner"].split(6), numbers["share"].split(6), strict=True):
        assert sorted(partners.tolist()) == list(range(6))
        assert len(set(shares.tolist())) == 1  # one share a micro-batch, as in the paper's code
    assert len(set(numbers["share"].tolist())) == 4
