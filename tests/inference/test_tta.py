"""Views of an image are what their names say, and their weights add up."""

from __future__ import annotations

import pytest
import torch

from distcls.config.settings import TTA_LEVELS
from distcls.inference.tta import views


def make_images(side: int = 32, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.randint(0, 256, (2, side, side, 3), generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(("level", "number"), list(zip(TTA_LEVELS, (1, 2, 6, 10), strict=True)))
@pytest.mark.parametrize("side", [2, 8, 33])
def test_weights_add_up_to_one(level, number, side):
    images = make_images(side)
    found = list(views(images, level))
    assert len(found) == number and sum(weight for weight, _ in found) == pytest.approx(1)
    assert all(view.shape == images.shape for _, view in found)
    assert torch.equal(found[0][1], images)
    for (one, view), (other, mirrored) in zip(found[::2], found[1::2], strict=False):
        assert one == other and torch.equal(mirrored, view.flip(2))


def test_a_shift_is_one_pixel_of_a_small_image_along_the_diagonal():
    images = make_images()
    (_, up), (_, down) = list(views(images, "shift"))[2::2]
    assert torch.equal(up[:, :-1, :-1], images[:, 1:, 1:]) and torch.equal(up[:, -1, :-1], images[:, -2, 1:])
    assert torch.equal(down[:, 1:, 1:], images[:, :-1, :-1]) and torch.equal(down[:, 0, 1:], images[:, 1, :-1])


def test_the_shift_is_that_of_airbench():
    """Its shifted views are cut from images padded by one reflected pixel, at (0, 0) and (2, 2)."""
    images = make_images()
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (1,) * 4, "reflect").permute(0, 2, 3, 1)
    (weight, up), (_, down) = list(views(images, "shift"))[2::2]
    assert torch.equal(down.float(), padded[:, 0:32, 0:32]) and torch.equal(up.float(), padded[:, 2:34, 2:34])
    assert weight == 1 / 8


def test_scales_enlarge_and_reduce():
    """Of a square in the middle of a black image, more is white when enlarged, and less when reduced."""
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    images[:, 16:48, 16:48] = 255
    (_, enlarged), (_, reduced) = list(views(images, "scale"))[6::2]
    assert enlarged.mean() > 1.1 * images.float().mean() > 1.1 * 1.1 * reduced.mean()
    assert enlarged.dtype == reduced.dtype == torch.float32


def test_gradients_pass():
    images = make_images(8, torch.float32).requires_grad_()
    sum((weight * view).sum() for weight, view in views(images, "scale")).backward()  # type: ignore[union-attr]
    assert images.grad is not None and (images.grad > 0).any()
