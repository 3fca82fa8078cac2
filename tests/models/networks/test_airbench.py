"""The network of cifar10-airbench: what it starts from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distcls.errors import UsageError
from distcls.models.networks.airbench import airbench


def correlated_images(count: int = 64) -> torch.Tensor:
    """Images whose neighbouring pixels and channels are alike, as in photographs."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, 18, 18, generator=draw)
    return F.avg_pool2d(noise, 3, stride=1) * 3 + noise.mean(1, keepdim=True)[:, :, 1:17, 1:17]


def test_the_first_layer_whitens_patches_like_those_it_was_started_from():
    network = airbench(10, 32)
    images = correlated_images()
    network.start_from_images(images)
    whitened = F.conv2d(images, network.whiten.weight)[:, :12]
    values = whitened.permute(1, 0, 2, 3).flatten(1).double()
    moments = values @ values.T / values.shape[1]
    assert torch.allclose(moments, torch.eye(12, dtype=torch.float64), atol=0.02)
    assert torch.equal(network.whiten.weight[12:], -network.whiten.weight[:12])
    assert not network.whiten.weight.requires_grad and network.whiten.bias.requires_grad


def test_convolutions_start_as_identities_and_norms_only_shift():
    network = airbench(10, 32, widths=[24, 32, 32])
    first = network.groups[0][0]
    images = torch.randn(2, 24, 8, 8)
    assert torch.allclose(first(images)[:, :24], images, atol=1e-6)
    assert not network.groups[0][2].weight.requires_grad and network.groups[0][2].bias.requires_grad
    assert network.head.weight.std().item() == pytest.approx(1)


@pytest.mark.parametrize("image_size", [9, 32, 64])
def test_it_takes_images_of_any_size(image_size):
    assert airbench(7, image_size)(torch.zeros(2, 3, image_size, image_size)).shape == (2, 7)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UsageError, match="8 pixels are too small for this model: set data.image_size=9 or more"):
        airbench(10, 8)
