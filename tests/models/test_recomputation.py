"""Activations that are computed again give the same gradients to the bit, and what could not is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from distcls.errors import UsageError
from distcls.models.networks.resnet9 import resnet9
from distcls.models.recomputation import blocks_of, recompute_activations
from distcls.training.statistics import BatchNormStatistics


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Block(nn.Module):
    """Convolution, norm and dropout, which counts its passes."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width)
        self.dropout, self.passes = nn.Dropout(0.3), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return torch.relu(self.dropout(self.norm(self.layer(images)))) + 1


class Network(nn.Module):
    """Two blocks in a list, and a head."""

    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 8), *between, Block(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(images).mean((2, 3)))


VIT = {"img_size": 16, "patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 2}
MODELS = {
    "own": Network,
    "resnet9": lambda: resnet9(3, 16),
    "torchvision": lambda: torchvision.models.mobilenet_v3_small(num_classes=3, dropout=0.3),
    "timm with batch norms": lambda: timm.create_model(
        "resnet10t", channels=[8, 8, 16, 16], drop_path_rate=0.5, num_classes=3
    ),
    "timm with layer norms": lambda: timm.create_model(
        "vit_tiny_patch16_224", drop_path_rate=0.5, proj_drop_rate=0.2, num_classes=3, **VIT
    ),
}


def step(model: nn.Module, seed: int) -> None:
    """A pass of four images, with gradients added up and statistics counted."""
    statistics = BatchNormStatistics(model)
    statistics.training_mode()
    torch.manual_seed(seed)
    loss = model(torch.randn(4, 3, 16, 16)).square().sum()
    torch.rand(7)  # as other code may draw between the passes
    loss.backward()
    statistics.update(torch.cat([torch.empty(0), *statistics.read()]), 1)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_statistics_are_the_same_to_the_bit(name):
    torch.manual_seed(0)
    plain = MODELS[name]()
    again = copy.deepcopy(plain)
    recompute_activations(again, name, 16, [])
    for seed in (1, 2):
        step(plain, seed)
        step(again, seed)
    for (key, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert one.grad is not None and torch.equal(one.grad, other.grad), key
    for key, tensor in plain.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_blocks_run_twice_in_training_and_once_in_evaluation():
    model = Network()
    recompute_activations(model, "own", 16, [])
    assert [block.passes for block in model.blocks] == [0, 0]
    step(model, 0)
    assert [block.passes for block in model.blocks] == [2, 2]
    with torch.no_grad():
        model(torch.zeros(2, 3, 16, 16))
    assert [block.passes for block in model.blocks] == [3, 3]


def test_a_copy_computes_with_its_own_weights():
    model = Network()
    recompute_activations(model, "own", 16, [])
    other = copy.deepcopy(model)
    nn.init.zeros_(other.blocks[1].norm.weight)
    nn.init.zeros_(other.blocks[1].norm.bias)
    assert torch.equal(other(torch.ones(2, 3, 16, 16)), other.head(torch.ones(2, 8)))
    assert not torch.equal(model(torch.ones(2, 3, 16, 16)), other(torch.ones(2, 3, 16, 16)))


def test_blocks_are_the_parts_of_lists():
    assert list(blocks_of(torchvision.models.resnet18())) == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert list(blocks_of(resnet9(3, 16))) == ["stem", "layer1.0", "layer1.1", "layer2", "layer3.0", "layer3.1"]


class Doubling(nn.Sequential):
    """Changes its input in place."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.mul_(2))


class Louder(nn.Sequential):
    """Scales its input by the number of its passes."""

    passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return super().forward(images * self.passes)


class Noisy(nn.Sequential):
    """Draws from NumPy's generator."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images * float(np.random.random()))


class NoSupport(nn.Sequential):
    """Like some models of timm."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        assert not enable, "gradient checkpointing not supported"


@pytest.mark.parametrize(
    ("model", "moving", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), [], "with model.name=mine: it has no blocks to recompute"),
        (NoSupport(nn.Flatten(), nn.Linear(768, 3)), [], "with model.name=mine: gradient checkpointing not supported"),
        (Network(), ["blocks.0.count"], "each pass changes its buffer 'blocks.0.count', which would change twice"),
        (
            Network(Doubling(nn.Conv2d(8, 8, 1))),
            [],
            "with model.name=mine: a block cannot be recomputed: .*in-?place",
        ),
        (
            Network(Louder(nn.Conv2d(8, 8, 1))),
            [],
            "a block gives a different gradient for .* or remembers earlier passes",
        ),
        (
            Network(Noisy(nn.Conv2d(8, 8, 1))),
            [],
            "a block gives a different gradient for .* random numbers that are not",
        ),
    ],
)
def test_what_could_not_be_computed_again_is_refused(model, moving, message):
    with pytest.raises(UsageError, match=message):
        recompute_activations(model, "mine", 16, moving)


def test_buffers_outside_blocks_may_move():
    recompute_activations(Network(), "mine", 16, ["center"])
