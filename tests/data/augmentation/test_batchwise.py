"""Whole-batch augmentation does what a plain loop over images would, with numbers that no rank decides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as one_image

from distcls.config.settings import AugmentConfig, NormalizeConfig
from distcls.data.augmentation.batchwise import Augmentation, draw_numbers
from distcls.data.augmentation.boxes import inside
from distcls.data.augmentation.color_jitter import jitter
from distcls.data.augmentation.mixing import mix
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.loading.micro_batch import MicroBatch
from distcls.plan.batches import BatchPlan
from distcls.plan.randomness import key

CPU = torch.device("cpu")
PLAN = BatchPlan(num_images=100, global_batch_size=24, micro_batch_size=6, total_steps=100, seed=0)
NORMALIZE = Normalize.build(NormalizeConfig(), CPU, torch.float64, True)
ALL = AugmentConfig(
    pad_crop=3, flip=True, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, erase=0.5, cutout=0.25, mixup=0.4,
    cutmix=1.0,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def make_pixels(n=24, height=9, width=7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, height, width, 3)).astype(np.uint8))


def augmented(config: AugmentConfig, pixels: torch.Tensor, step: int = 0) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Pixels after augmentation, and the numbers."""
    numbers = draw_numbers(config, PLAN, step)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    images, _ = Augmentation(NORMALIZE, 3)(MicroBatch(0, pixels, labels, numbers))
    return NORMALIZE.undo(images).numpy(), numbers


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(flip=True), AugmentConfig(pad_crop=2), ALL])
@pytest.mark.parametrize("with_box", [True, False])
def test_images_that_lie_among_others_give_what_they_give_alone(config, with_box):
    pixels, rows = make_pixels(40), torch.randperm(40, generator=torch.Generator().manual_seed(0))[:24]
    numbers, labels = draw_numbers(config, PLAN, 0), torch.arange(24) % 3
    if with_box:
        numbers["box"] = torch.tensor([[1, 2, 6, 5]]).expand(24, 4)
    augment = Augmentation(NORMALIZE, 3, image_size=7)
    alone = augment(MicroBatch(0, pixels[rows], labels, numbers))
    among_others = augment(MicroBatch(0, pixels, labels, numbers, rows))
    assert all(torch.equal(*pair) for pair in zip(alone, among_others, strict=True))


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
    mixed, targets = mix(images, labels, partner, share, None, 3)
    for i in range(6):
        own, other, s = images[i], images[partner[i]], share[i].item()
        torch.testing.assert_close(mixed[i], s * own + (1 - s) * other)
        expected = [0.0, 0.0, 0.0]
        expected[int(labels[i])] += s
        expected[int(labels[partner[i]])] += 1 - s
        assert targets[i].tolist() == pytest.approx(expected)


def test_cutmix_is_that_of_a_loop_over_images():
    images, labels = torch.randn(4, 3, 8, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    boxes = torch.tensor([[0.25, 0, 0.75, 0.5], [-0.5, 0.5, 0.25, 1.5], [0, 0, 0, 0], [-1, -1, 2, 2]])
    partner = torch.tensor([1, 2, 3, 0])
    mixed, targets = mix(images, labels, partner, torch.ones(4), boxes, 3)
    for i, box in enumerate([(2, 6, 0, 3), (0, 2, 3, 6), (0, 0, 0, 0), (0, 8, 0, 6)]):
        top, bottom, left, right = box
        expected = images[i].clone()
        expected[:, top:bottom, left:right] = images[partner[i]][:, top:bottom, left:right]
        assert torch.equal(mixed[i], expected)
        shares = [0.0, 0.0, 0.0]
        pasted = (bottom - top) * (right - left) / 48
        shares[int(labels[i])] += 1 - pasted
        shares[int(labels[partner[i]])] += pasted
        assert targets[i].tolist() == pytest.approx(shares, abs=1e-12)


def test_a_micro_batch_has_mixup_or_cutmix_and_both_come():
    drawn = [draw_numbers(ALL, PLAN, step) for step in range(20)]
    boxes, shares = (torch.cat([numbers[name] for numbers in drawn]) for name in ("pasted", "share"))
    has_box, is_blended = (boxes[:, 2] > boxes[:, 0]), shares < 1
    assert torch.equal(has_box, ~is_blended)
    assert {len(set(rows.tolist())) for rows in has_box.split(6)} == {1} and 0.3 < has_box.double().mean() < 0.7
    cutmix_only = draw_numbers(dataclasses.replace(ALL, mixup=0.0), PLAN, 0)
    assert torch.equal(cutmix_only["share"], torch.ones(24))
    assert (cutmix_only["pasted"][:, 2] > cutmix_only["pasted"][:, 0]).all()


@pytest.mark.parametrize("setting", ["brightness", "contrast", "saturation"])
def test_jitter_is_that_of_torchvision(setting):
    pixels = make_pixels()
    found, _ = augmented(AugmentConfig(**{setting: 0.7}), pixels)
    draws = np.random.Generator(np.random.PCG64(key(0, "augment color", 0))).uniform(-1, 1, (4, 24))
    factors = 1 + 0.7 * draws[["brightness", "contrast", "saturation"].index(setting)]
    adjust = getattr(one_image, f"adjust_{setting}")
    for i, (image, factor) in enumerate(zip(pixels, factors, strict=True)):
        expected = adjust(image.permute(2, 0, 1), factor.item()).permute(1, 2, 0).numpy()
        assert np.abs(found[i].astype(int) - expected).max() <= 2, (
            f"image {i}"
        )  # torchvision rounds gray and result down


def test_hue_turns_colors_and_keeps_gray_and_brightness():
    pixels = (80 + make_pixels() // 4).clone()  # far from the ends of the range, where colors are cut off
    pixels[:, 0] = pixels[:, 0, :, :1]
    images, _ = augmented(AugmentConfig(hue=0.5), pixels)
    assert np.array_equal(images[:, 0], pixels[:, 0])
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(images @ luma - pixels.numpy() @ luma).max() <= 1
    changes = np.abs(images[:, 1:].astype(int) - pixels.numpy()[:, 1:]).mean((1, 2, 3))
    assert changes.max() > 20 and changes.min() < 10


def test_every_micro_batch_gets_the_colors_it_would_get_in_any_other():
    pixels, numbers = make_pixels(height=8, width=8), draw_numbers(ALL, PLAN, 0)
    color, gray = numbers["color"], numbers["gray"]
    for dtype in (torch.float32, torch.float64):
        whole = jitter(pixels, color, gray, dtype)
        parts = [jitter(*part, dtype) for part in zip(*(x.split(6) for x in (pixels, color, gray)), strict=True)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("setting", "table"), [("cutout", "cutout"), ("erase", "erased")])
def test_boxes_are_blanked_out_in_the_mean_color(setting, table):
    pixels = make_pixels()
    found, numbers = augmented(AugmentConfig(**{setting: 0.5}), pixels)
    mean = np.round(255 * np.array(NormalizeConfig().mean)).astype(np.uint8)
    for i, (top, left, bottom, right) in enumerate(numbers[table].tolist()):
        expected = pixels[i].clone().numpy()
        for row in range(9):
            for column in range(7):
                if top <= (row + 0.5) / 9 < bottom and left <= (column + 0.5) / 7 < right:
                    expected[row, column] = mean
        assert np.array_equal(found[i], expected)


def test_boxes_have_the_size_that_was_asked_for():
    drawn = [draw_numbers(AugmentConfig(cutout=0.25, erase=0.5), PLAN, step) for step in range(40)]
    cutout, erased = (torch.cat([numbers[name] for numbers in drawn]) for name in ("cutout", "erased"))
    covered = inside(cutout, 32, 32).sum((1, 2))
    assert covered.max() == 64 and covered.min() < 64  # 8 x 8 pixels, less where it reaches over an edge
    areas = inside(erased, 100, 100).double().mean((1, 2))
    chosen = areas > 0
    assert chosen.double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert 0.015 < areas[chosen].min() < 0.03 and 0.3 < areas[chosen].max() < 0.34


def test_nothing_is_changed_where_nothing_is_asked_for():
    pixels = make_pixels()
    found, numbers = augmented(AugmentConfig(), pixels)
    assert numbers == {}
    assert np.array_equal(found, pixels.numpy())


def test_labels_stay_class_ids_unless_mixed():
    labels = torch.tensor([2, 0, 1, 1, 0, 2])
    augment, pixels = Augmentation(NORMALIZE, 3), make_pixels(6)
    assert augment(MicroBatch(0, pixels, labels, {}))[1] is labels
    rows = {name: table[:6] for name, table in draw_numbers(ALL, PLAN, 0).items()}
    targets = augment(MicroBatch(0, pixels, labels, rows))[1]
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


@pytest.mark.parametrize(
    ("settings", "tables"),
    [
        ({"pad_crop": 3}, ["shift"]),
        ({"flip": True}, ["mirrored"]),
        ({"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}, ["color", "gray"]),
        ({"cutout": 0.25}, ["cutout"]),
        ({"erase": 0.5}, ["erased"]),
        ({"mixup": 0.4, "cutmix": 1.0}, ["partner", "pasted", "share"]),
    ],
)
def test_switching_one_on_changes_no_numbers_of_the_others(settings, tables):
    everything, alone = draw_numbers(ALL, PLAN, 3), draw_numbers(AugmentConfig(**settings), PLAN, 3)
    assert list(alone) == tables
    assert all(torch.equal(alone[name], everything[name]) for name in tables)


def test_cutmix_beside_mixup_changes_no_partner_and_no_share_that_is_left():
    both, mixup = draw_numbers(ALL, PLAN, 0), draw_numbers(dataclasses.replace(ALL, cutmix=0.0), PLAN, 0)
    assert torch.equal(both["partner"], mixup["partner"])
    blended = both["share"] < 1
    assert blended.any() and torch.equal(both["share"][blended], mixup["share"][blended])


def test_an_alternating_flip_shows_both_sides_of_every_image_in_any_two_epochs():
    plan = BatchPlan(num_images=10, global_batch_size=4, micro_batch_size=2, total_steps=100, seed=0)
    config = AugmentConfig(flip="alternating")
    mirrored = torch.cat([draw_numbers(config, plan, step)["mirrored"] for step in range(10)]).view(4, 10)
    images = torch.from_numpy(np.concatenate([plan.global_batch(step) for step in range(10)])).view(4, 10)
    by_image = torch.gather(mirrored, 1, images.argsort(1))
    assert 0 < by_image[0].sum() < 10
    assert torch.equal(by_image[1], ~by_image[0]) and torch.equal(by_image[2], by_image[0])
    assert torch.equal(by_image[3], ~by_image[0])


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
    assert (shares == 1).double().mean().item() == pytest.approx(0.5, abs=0.1)  # these have CutMix
    shares = shares[shares != 1]
    assert 0 <= shares.min() < 0.1 and 0.9 < shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.1)


def test_partners_are_a_permutation_inside_each_micro_batch():
    numbers = draw_numbers(dataclasses.replace(ALL, cutmix=0.0), PLAN, 0)
    for partners, shares in zip(numbers["partner"].split(6), numbers["share"].split(6), strict=True):
        assert sorted(partners.tolist()) == list(range(6))
        assert len(set(shares.tolist())) == 1  # one share a micro-batch, as in the paper's code
    assert len(set(numbers["share"].tolist())) == 4
