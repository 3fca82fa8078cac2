"""The network of cifar10-airbench: what it starts from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.models.networks.airbench import airbench


def correlated_images(count: int = 64) -> torch.Tensor:
    """Images whose neighboring pixels and channels are alike, as in photographs."""
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


def test_with_three_convolutions_a_group_adds_the_last_two_to_the_first():
    network = airbench(10, 32, widths=[24, 24, 32], depth=3).eval()
    group, images = network.groups[1], torch.rand(2, 24, 16, 16)
    first = F.gelu(F.max_pool2d(images, 2))  # norms that have seen nothing, and identities, pass everything on
    assert torch.allclose(group(images), F.gelu(F.gelu(first) + first), atol=1e-5)
    assert not group.norm3.weight.requires_grad and group.norm3.bias.requires_grad


def test_the_head_can_start_as_a_linear_layer_does():
    deviation = airbench(10, 32, widths=[24, 32, 64], head_std=None).head.weight.std().item()
    assert deviation == pytest.approx(1 / (3 * 64) ** 0.5, rel=0.1)


def test_a_depth_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="depth=4 is neither 2 nor 3"):
        build_model(ModelConfig(name="airbench", args={"depth": 4}), 10, 32)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("image_size", [9, 32, 64])
def test_it_takes_images_of_any_size(image_size, depth):
    assert airbench(7, image_size, depth=depth)(torch.zeros(2, 3, image_size, image_size)).shape == (2, 7)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UsageError, match="8 pixels are too small for this model: set data.image_size=9 or more"):
        airbench(10, 8)
