"""Layers are counted from the first to the head, as a reader of the model would count them."""

from __future__ import annotations

import pytest
import timm
import torchvision
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.optim.depth import layer_ids, lr_scales


def parts_of(model: nn.Module, depth: int = 2) -> list[list[str]]:
    """The parts in each layer, by the first words of their names."""
    ids = layer_ids(model)
    assert list(ids) == [name for name, _ in model.named_parameters()]
    layers = [
        dict.fromkeys(".".join(name.split(".")[:depth]) for name in ids if ids[name] == i) for i in set(ids.values())
    ]
    return [list(layer) for layer in layers]


def test_the_layers_of_cnn2():
    assert parts_of(build_model(ModelConfig(), 10, 8)) == [
        ["blocks.0"],
        ["blocks.1"],
        ["hidden.weight", "hidden.bias"],
        ["head.weight", "head.bias"],
    ]


def test_the_layers_of_a_resnet_are_its_blocks():
    stem, *blocks, head = parts_of(torchvision.models.resnet18(num_classes=3))
    assert stem == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert blocks == [[f"layer{i}.{j}"] for i in (1, 2, 3, 4) for j in (0, 1)]
    assert head == ["fc.weight", "fc.bias"]


def test_an_encoder_is_taken_apart_and_tokens_join_the_first_layer():
    names = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    stem, *blocks, last, head = parts_of(torchvision.models.VisionTransformer(num_classes=3, **names), depth=3)
    assert stem == ["class_token", "conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding"]
    assert blocks == [["encoder.layers.encoder_layer_0"], ["encoder.layers.encoder_layer_1"]]
    assert last == ["encoder.layers.encoder_layer_2", "encoder.ln.weight", "encoder.ln.bias"]
    assert head == ["heads.head.weight", "heads.head.bias"]


def test_models_of_timm_know_their_own_layers():
    model = timm.create_model("vit_tiny_patch16_224", depth=3, embed_dim=24, num_classes=3)
    stem, *blocks, last, head = parts_of(model)
    assert stem == ["cls_token", "pos_embed", "patch_embed.proj"]
    assert blocks == [["blocks.0"], ["blocks.1"]]
    assert last == ["blocks.2", "norm.weight", "norm.bias"]  # in the order of its own blocks, a norm would be a layer
    assert head == ["head.weight", "head.bias"]


def test_a_tied_weight_has_the_layer_of_its_first_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    assert layer_ids(model) == {"0.weight": 0, "0.bias": 0, "1.weight": 1, "1.bias": 1}


def test_each_layer_below_the_head_has_one_more_factor():
    scales = lr_scales(0.5, build_model(ModelConfig(), 10, 8))
    assert [scales[f"{name}.weight"] for name in ("blocks.0.0", "blocks.1.1", "hidden", "head")] == [
        1 / 8,
        1 / 4,
        1 / 2,
        1,
    ]


def test_a_model_of_one_layer_is_refused():
    with pytest.raises(UsageError, match=r"optim.layer_decay=0.7 has no effect: the model has only one layer"):
        lr_scales(0.7, nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
