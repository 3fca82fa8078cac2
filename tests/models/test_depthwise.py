"""Depthwise convolutions in bf16 on a CPU: another backward pass, the same gradients."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from distcls.models.depthwise import Depthwise, speed_up_depthwise


def gradients(network: nn.Module, images: torch.Tensor, in_bf16: bool) -> dict[str, torch.Tensor]:
    """Return the gradients of a training pass, by parameter, that of the images, and the outputs."""
    network = copy.deepcopy(network).train()
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        outputs = network(images)
    outputs.float().square().mean().backward()
    return {
        "images": images.grad,
        "outputs": outputs.detach(),
        **{name: p.grad for name, p in network.named_parameters()},
    }


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        (3, 2, 0, (13, 13)),
        (3, 2, 1, (14, 9)),
        (5, 1, 2, (14, 14)),
        (5, 2, 2, (14, 15)),
        (5, 2, 0, (19, 19)),
        (7, 1, 3, (8, 8)),
        (7, 4, 1, (21, 16)),
        (4, 4, 0, (9, 11)),
        (1, 2, 0, (7, 7)),
        ((1, 11), (1, 2), (0, 5), (5, 16)),
    ],
)
def test_gradients_are_those_of_torch(kernel, stride, padding, size):
    kernel, stride, padding = (pair if isinstance(pair, tuple) else (pair, pair) for pair in (kernel, stride, padding))
    shapes = (2, 6, *size), (6, 1, *kernel), (6,)
    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in given] for _ in range(2))
    outputs = Depthwise.apply(*ours, stride, padding)
    expected = functional.conv2d(*theirs, stride, padding, groups=6)
    assert torch.equal(outputs, expected)
    weights = torch.randn_like(outputs)
    (outputs * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_part_that_needs_no_gradient_gets_none():
    images, weights = torch.randn(1, 4, 9, 9), torch.randn(4, 1, 5, 5, requires_grad=True)
    Depthwise.apply(images, weights, None, (1, 1), (2, 2)).sum().backward()
    assert images.grad is None and weights.grad is not None
    images.requires_grad_()
    Depthwise.apply(images, weights.detach(), None, (1, 1), (2, 2)).sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto", "mobilenetv3_small_050"])
def test_a_network_learns_the_same_in_bf16_and_exactly_the_same_in_float32(name):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3, drop_path_rate=0.0, drop_rate=0.0)
    plain = plain.to(memory_format=torch.channels_last)
    faster = copy.deepcopy(plain)
    speed_up_depthwise(faster)
    assert list(faster.state_dict()) == list(plain.state_dict())
    images = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    exact = gradients(plain, images, in_bf16=False)
    assert all(torch.equal(g, exact[key]) for key, g in gradients(faster, images, in_bf16=False).items())
    rounded, ours = gradients(plain, images, in_bf16=True), gradients(faster, images, in_bf16=True)
    assert torch.equal(ours["outputs"], rounded["outputs"])
    errors = [sum((found[key] - exact[key]).norm() for key in exact) for found in (rounded, ours)]
    assert 0 < errors[1] < 1.1 * errors[0]


@pytest.mark.parametrize(
    ("layer", "is_replaced"),
    [
        (nn.Conv2d(4, 4, 5, groups=4, padding=2), True),
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), True),
        (nn.Conv2d(4, 4, 3, groups=4), False),
        (nn.Conv2d(4, 4, 5), False),
        (nn.Conv2d(4, 8, 5, groups=4), False),
        (nn.Conv2d(1, 1, 5), False),
        (nn.Conv2d(4, 4, 5, groups=4, dilation=2), False),
        (nn.Conv2d(4, 4, 5, groups=4, padding="same"), False),
        (nn.Conv2d(4, 4, 5, groups=4, padding=2, padding_mode="reflect"), False),
        (nn.Conv2d(4, 4, 3, groups=4, padding=3, stride=2), False),
    ],
)
def test_only_slow_depthwise_convolutions_are_replaced(layer, is_replaced):
    network = nn.Sequential(layer)
    speed_up_depthwise(network)
    assert ("forward" in vars(layer)) == is_replaced


def test_a_class_that_computes_something_else_is_left_alone():
    class Scaled(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(images)

    network = nn.Sequential(Scaled(4, 4, 5, groups=4))
    speed_up_depthwise(network)
    assert "forward" not in vars(network[0])


def test_a_copy_uses_its_own_weights():
    network = nn.Sequential(nn.Conv2d(4, 4, 5, groups=4))
    speed_up_depthwise(network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other[0].weight.zero_()
        other[0].bias.zero_()
    images = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert not other(images).any() and network(images).any()
