"""The averages of the weights follow their formulas, and nothing trains them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distcls.config.settings import LookaheadConfig
from distcls.optim.averages import build_copy, copy_buffers, look_ahead, update_ema


def test_the_average_starts_as_a_copy_that_is_not_trained():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    ema = build_copy(module)
    assert torch.equal(ema[0].weight, module[0].weight) and ema[0].weight is not module[0].weight
    assert not any(p.requires_grad for p in ema.parameters()) and module[0].weight.requires_grad
    assert not ema.training and module.training


def test_the_average_follows_the_formula():
    module = nn.Linear(1, 1)
    ema = build_copy(module)
    draw = torch.Generator().manual_seed(0)
    expected = module.weight.item()
    for step in range(200):
        module.weight.data = torch.randn(1, 1, generator=draw)
        update_ema(ema, module, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.item()
        assert ema.weight.item() == pytest.approx(expected, abs=1e-5)


def test_the_start_is_soon_forgotten():
    """With a decay of 0.9999 from the first step on, 99 % of it would be left after 100 steps."""
    module = nn.Linear(1, 1)
    nn.init.constant_(module.weight, 1000.0)
    ema = build_copy(module)
    nn.init.constant_(module.weight, 0.0)
    for step in range(100):
        update_ema(ema, module, 0.9999, step)
    assert abs(ema.weight.item()) < 1e-3


def test_the_average_keeps_the_memory_format():
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    ema = build_copy(module)
    update_ema(ema, module, 0.9, 0)
    assert ema.weight.stride() == module.weight.stride()


def test_tied_weights_stay_tied():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    ema = build_copy(module)
    module[0].weight.data += 1
    update_ema(ema, module, 0.0, 5)
    assert ema[1].weight is ema[0].weight
    assert torch.equal(ema[0].weight, module[0].weight)


def test_buffers_that_a_forward_pass_makes_or_resizes_are_left_to_the_average():
    model = torch.nn.Linear(2, 2)
    model.register_buffer("count", torch.zeros(1))
    model.register_buffer("cache", torch.zeros(2))
    ema = build_copy(model)
    model.count += 3
    model.cache = torch.ones(5)
    model.register_buffer("mask", torch.ones(4))
    copy_buffers(ema, model)
    assert (ema.count, ema.cache.tolist()) == (3, [0, 0]) and not hasattr(ema, "mask")


def test_slow_weights_follow_and_take_the_place_of_the_weights():
    """One step adds 1. Every third, the slow weights move half of the way; after the tenth, only they are left."""
    module = nn.Linear(1, 1)
    nn.init.zeros_(module.weight)
    slow, seen = build_copy(module), []
    for step in range(1, 11):
        module.weight.data += 1
        look_ahead(slow, module, LookaheadConfig(every=3, decay=0.5), step, 10)
        seen.append(module.weight.item())
    assert seen == [1, 2, 1.5, 2.5, 3.5, 3, 4, 5, 4.5, 4.5]


def test_a_decay_with_a_power_grows_with_the_run():
    module = nn.Linear(1, 1)
    nn.init.zeros_(module.weight)
    slow, seen = build_copy(module), []
    for step in (2, 4):
        module.weight.data += 1
        look_ahead(slow, module, LookaheadConfig(every=2, decay=0.5, power=2), step, 4)
        seen.append(module.weight.item())
    assert seen == [0.875, 1.375], "0.5 × (2 / 4)² of 0 is left, then 0.5 of 0.875"
