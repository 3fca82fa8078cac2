"""What a step takes is estimated without running one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from variants import variant

from distcls.training.start.memory import Memory, estimate_memory, largest_that_fits


@pytest.mark.parametrize(
    ("optimizer", "precision", "ema", "copies", "weight_bytes", "activation_bytes"),
    [
        ("sgd", "float32", None, 3, 4, 4),
        ("adamw", "float32", None, 4, 4, 4),
        ("adamw", "float32", 0.9, 5, 4, 4),
        ("adamw", "bf16", None, 4, 4, 2),
        ("adamw", "float64", None, 4, 8, 8),
    ],
)
def test_memory_counts_weights_gradients_optimizer_average_and_activations(
    optimizer, precision, ema, copies, weight_bytes, activation_bytes
):
    config = variant(train__precision=precision, train__ema_decay=ema, optim__name=optimizer)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.ReLU(), nn.Linear(10, 4))
    parameters, outputs = 192 * 10 + 10 + 10 * 4 + 4, 192 + 10 + 10 + 4
    estimate = estimate_memory(config, module, 8)
    assert (
        estimate is not None
        and estimate.of_step(10) == parameters * weight_bytes * copies + outputs * 10 * activation_bytes
    )


def test_an_estimate_leaves_the_model_and_the_generators_as_they_are():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    estimate_memory(variant(), module, 8)
    assert torch.equal(torch.get_rng_state(), state) and module.training
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(layer._forward_hooks for layer in module.modules())


class Reading(nn.Module):
    """A model that looks at its numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 2)

    def forward(self, images):
        return self.layer(images.flatten(1) * images.max().item())


def test_a_model_that_reads_numbers_has_no_estimate():
    assert estimate_memory(variant(), Reading(), 8) is None


def test_the_largest_micro_batch_that_fits_divides_the_one_asked_for():
    assert largest_that_fits(Memory(100, 10), 24, 200) == 8
    assert largest_that_fits(Memory(100, 10), 24, 90) is None


def test_of_activations_that_are_computed_again_one_block_is_counted_at_a_time():
    small, large = (nn.Sequential(nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 192)) for width in (10, 20))
    module = nn.Sequential(nn.Flatten(), small, large, nn.Linear(192, 4))
    every, again = (
        estimate_memory(variant(train__checkpoint_activations=on, train__precision="float32"), module, 8)
        for on in (False, True)
    )
    assert every is not None and again is not None and every.weights == again.weights
    assert every.per_image == 4 * (192 + (10 + 10 + 192) + (20 + 20 + 192) + 4)
    assert again.per_image == 4 * (192 + 192 + 192 + 4 + (20 + 20 + 192))


def test_a_backbone_that_is_frozen_for_good_keeps_no_activations():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 4))
    module[0].requires_grad_(False)
    config = variant(model__head_only=True, train__precision="float32")
    estimate = estimate_memory(config, module, 8)
    assert estimate is not None and estimate.per_image == 4 * 4
