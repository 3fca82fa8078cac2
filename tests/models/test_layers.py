"""Layers are counted as papers count them, wherever their arithmetic is, and the network stays as it was."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.models.layers import count_flops, layer_table


def by_name(network: nn.Module, image_size: int) -> dict:
    return {layer.name: layer for layer in layer_table(network, image_size)}


def test_resnet18_has_the_numbers_it_is_known_for():
    network = torchvision.models.resnet18()
    layers = by_name(network, 224)
    assert list(layers) == [name for name, _ in network.named_modules()]
    whole = layers[""]
    assert (whole.num_parameters, whole.flops, whole.output_shape) == (11_689_512, 3_628_146_688, (1000,))
    assert whole.flops / 2e9 == pytest.approx(1.814, abs=5e-4), "the multiply-adds that torchvision states"
    conv = layers["conv1"]
    assert (conv.kind, conv.output_shape, conv.num_parameters) == ("Conv2d", (64, 112, 112), 64 * 3 * 49)
    assert conv.flops == 2 * 64 * 3 * 49 * 112**2
    assert sum(layer.flops for layer in layers.values() if layer.depth == 1) == whole.flops
    assert sum(layer.num_parameters for layer in layers.values() if layer.depth == 1) == whole.num_parameters


def test_attention_is_counted():
    whole = layer_table(torchvision.models.vit_b_16(), 224)[0]
    assert (whole.num_parameters, whole.flops) == (86_567_656, 35_127_656_448)


def test_cnn2_is_counted_by_hand():
    layers = by_name(build_model(ModelConfig(name="cnn2", freeze=["blocks.1"]), 10, 32), 32)
    convolutions = 2 * 27 * 32 * 32**2, 2 * 32 * 9 * 64 * 16**2
    hidden, head = 2 * 64 * 8**2 * 128, 2 * 128 * 10
    assert [layers[name].flops for name in ("blocks.0.0", "blocks.1.0")] == list(convolutions)
    assert layers["blocks"].flops == sum(convolutions) and layers["blocks.0.1"].flops == 0
    assert layers[""].flops == sum(convolutions) + hidden + head
    assert layers[""].num_parameters - layers[""].num_trainable == layers["blocks.1"].num_parameters == 18_560
    assert layers["blocks.1"].num_trainable == 0
    assert [layers[name].depth for name in ("", "blocks", "blocks.0", "blocks.0.0")] == [0, 1, 2, 3]


def test_the_network_stays_as_it_was():
    network = build_model(ModelConfig(name="cnn2"), 3, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    layer_table(network, 8)
    assert torch.equal(torch.rand(1), expected)
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class Odd(nn.Module):
    """Uses a layer twice, multiplies outside of any layer, leaves one out, and looks at its numbers."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.twice, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)
        self.listed = nn.ModuleList([nn.Linear(3, 3), nn.ModuleList([nn.Linear(3, 3)])])
        self.widen = nn.Linear(3, 4)
        self.attention = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)
        self.token, self.identity = nn.Parameter(torch.zeros(1, 1, 4)), nn.Identity()
        self.head = nn.Linear(4, 2)
        self.looks = looks

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.twice(self.twice(images.mean((2, 3))))
        features = self.listed[1][0](self.listed[0](features))
        if self.looks and features.sum().item() > 1e9:
            return features
        features = self.widen(features @ torch.ones(3, 3, device=features.device))
        sequence = torch.cat([self.identity(self.token.expand(len(images), -1, -1)), features[:, None]], 1)
        return self.head(self.attention(sequence)[:, 0])


@pytest.mark.parametrize("looks", [False, True])
def test_arithmetic_is_counted_wherever_it_is(looks):
    """FlopCounterMode knows neither torch's fast path for attention nor parameters as inputs of layers."""
    torch.backends.mha.set_fastpath_enabled(True)
    layers = by_name(Odd(looks), 8)
    assert layers["twice"].flops == 2 * (2 * 9)
    assert (layers["unused"].flops, layers["unused"].output_shape) == (0, None)
    assert (layers["listed"].flops, layers["listed.1"].flops, layers["listed"].output_shape) == (2 * 18, 18, None)
    projections, products, feed_forward = 2 * 2 * 4 * 16, 2 * 2 * 2 * 2 * 4, 2 * 2 * 2 * 4 * 5
    assert layers["attention"].flops == projections + products + feed_forward
    assert layers[""].flops == 2 * 18 + 2 * 18 + 18 + 2 * 12 + layers["attention"].flops + 2 * 8
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_network_on_the_meta_device_is_counted():
    with torch.device("meta"):
        network = torchvision.models.resnet18()
    assert count_flops(network, 224) == 3_628_146_688


def test_images_that_do_not_fit_are_an_error_that_names_the_size():
    with pytest.raises(UsageError, match=r"the model fails on an image of 16 pixels: .*data.image_size=N"):
        layer_table(nn.Sequential(nn.Conv2d(3, 4, 32)), 16)
