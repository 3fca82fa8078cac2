"""Pictures of filters and feature maps show the network's real numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from distcls.config.settings import Config, ModelConfig
from distcls.data.decoding.decode import Decoding
from distcls.inference.classifier import Classifier
from distcls.models.build import build_model
from distcls.training.kept.feature_pictures import LARGEST, first_filters, map_pictures


def test_filters_share_one_scale_around_grey() -> None:
    conv = nn.Conv2d(3, 2, 2)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 0, 1], conv.weight[1, 2, 1, 0] = 2.0, -1.0
    one, other = first_filters(nn.Sequential(nn.Conv2d(1, 3, 3), conv))
    assert one.shape == (2, 2, 3) and one[0, 1].tolist() == [255, 128, 128]
    assert other[1, 0].tolist() == [128, 128, 64] and (one[1] == 128).all()
    assert first_filters(nn.Linear(3, 3)) == [] and first_filters(nn.Conv2d(3, 3, 1)) == []


def test_maps_come_from_small_and_large_layers() -> None:
    torch.manual_seed(0)
    network = build_model(ModelConfig(name="resnet9"), 3, 96)
    classifier = Classifier(network, Config(), list("abc"), Decoding(96))
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    pictures, captions = map_pictures(classifier, image)
    assert len(pictures) == len(captions) == 4 * 8 and len(set(captions)) == 4
    assert captions[0] == "layer1.0.2\n128 maps of 96 × 96" and captions[-1] == "layer3\n512 maps of 12 × 12"
    assert pictures[0].shape == (LARGEST, LARGEST, 3) and pictures[-1].shape == (12, 12, 3)
    assert all(picture.min() == 0 and picture.max() == 255 for picture in pictures)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_maps_has_no_pictures() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    assert map_pictures(Classifier(flat, Config(), list("abc"), Decoding(8)), np.zeros((8, 8, 3), np.uint8)) == ([], [])
