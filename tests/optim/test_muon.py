"""Muon's update has the singular vectors of the momentum, and singular values near 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distcls.optim.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4)])
def test_the_update_has_the_directions_of_the_gradient_and_equal_lengths(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonalized(matrix)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ found @ right.T
    assert torch.allclose(inside, torch.diag(inside.diag()), atol=1e-9), "only singular values change"
    lengths = inside.diag()[values > 0.1 * values[0]]
    assert lengths.min() > 0.3 and lengths.max() < 1.4, "after three steps, those that were small are on their way to 1"


def test_the_size_of_the_gradient_does_not_matter():
    matrix = torch.randn(6, 9)
    assert torch.allclose(orthogonalized(matrix), orthogonalized(1000 * matrix), atol=1e-4)


def step(parameter: torch.Tensor, gradient: torch.Tensor, **options) -> torch.Tensor:
    moved = nn.Parameter(parameter.clone(memory_format=torch.preserve_format))
    moved.grad = gradient
    Muon([moved], lr=0.1, momentum=0.5, **options).step()
    return moved.detach()


def test_filters_are_moved_as_matrices():
    weights, gradient = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    moved = step(weights, gradient, nesterov=False)
    assert torch.allclose(weights - moved, 0.1 * orthogonalized(gradient.flatten(1)).view_as(weights), atol=1e-6)
    in_last = step(weights.to(memory_format=torch.channels_last), gradient, nesterov=False)
    assert torch.allclose(in_last, moved, atol=1e-6)


def test_weights_can_be_kept_at_one_norm_or_decay():
    weights, gradient = 5 * torch.randn(4, 6), torch.randn(4, 6)
    update = 0.1 * orthogonalized(gradient)
    normalized = step(weights, gradient, nesterov=False, normalize_weights=True)
    assert torch.allclose(normalized + update, weights * 2 / weights.norm(), atol=1e-6)
    decayed = step(weights, gradient, nesterov=False, weight_decay=0.5)
    assert torch.allclose(decayed + update, weights * 0.95, atol=1e-5)


def test_momentum_has_the_strides_of_its_weight():
    """Restoring a checkpoint asserts it."""
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    weight.grad = torch.randn(4, 3, 2, 2)
    optimizer = Muon([weight])
    optimizer.step()
    assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()
