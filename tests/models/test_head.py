"""The head is found whatever a model calls it, starts at zero, and keeps the rows of classes that it knows."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.models.head import features_of, head_parameters, train_head_only
from distcls.models.init_from import Source, find_source, init_from
from distcls.models.libraries import LIBRARIES

IMAGENET = ["tench, Tinca tinca", "great white shark, white shark, man-eater", "tabby, tabby cat", "macaw"]


def linear(num_classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 6), nn.Linear(6, num_classes))


def start(model: nn.Module, tensors: dict, tmp_path: Path, class_names: list[str], old: list[str] | None, **settings):
    save_file(tensors, tmp_path / "w.safetensors")
    source = Source(tmp_path / "w.safetensors", "model.weights=w.safetensors", "their weights", old)
    return init_from(model, source, ModelConfig(**settings), class_names, 8)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("timm/test_resnet", ["fc.weight", "fc.bias"]),
        ("timm/test_vit", ["head.weight", "head.bias"]),
        ("timm/test_convnext", ["head.fc.weight", "head.fc.bias"]),
        ("timm/deit_tiny_distilled_patch16_224", ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]),
        (
            "timm/levit_128s",
            ["head.linear.weight", "head.linear.bias", "head_dist.linear.weight", "head_dist.linear.bias"],
        ),
        (  # of which timm names only the first
            "timm/levit_384_s8",
            ["head.linear.weight", "head.linear.bias", "head_dist.linear.weight", "head_dist.linear.bias"],
        ),
        ("timm/crossvit_tiny_240", ["head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"]),
        ("timm/volo_d1_224", ["head.weight", "head.bias", "aux_head.weight", "aux_head.bias"]),
        (
            "timm/efficientvim_m1_dist",
            [
                f"{heads}.{i}.{part}"
                for heads in ("heads", "heads_dist")
                for i in range(4)
                for part in ("weight", "bias")
            ],
        ),
        ("torchvision/resnet18", ["fc.weight", "fc.bias"]),
        ("torchvision/squeezenet1_1", ["classifier.1.weight", "classifier.1.bias"]),
        ("torchvision/mobilenet_v3_small", ["classifier.3.weight", "classifier.3.bias"]),
        ("torchvision/vit_b_16", ["heads.head.weight", "heads.head.bias"]),
    ],
)
@pytest.mark.parametrize("num_classes", [5, 64])
def test_the_head_of_models_of_libraries(name, head, num_classes):
    """64 is the number of outputs of many other layers, too."""
    library, _, short = name.partition("/")
    with torch.device("meta"):
        model = LIBRARIES[library].build(short, num_classes, 224, {})
    assert head_parameters(model, num_classes) == head


def test_a_model_without_a_layer_for_the_classes_has_no_head():
    assert head_parameters(nn.Linear(3, 4), 5) == []


def test_a_new_head_is_zero(tmp_path):
    source, model = linear(4, seed=1), linear(3)
    done = start(model, source.state_dict(), tmp_path, list("abc"), IMAGENET)
    assert not model[1].weight.any() and not model[1].bias.any() and torch.equal(model[0].weight, source[0].weight)
    assert "new head for 3 classes, because their weights has different ones: 1.weight, 1.bias" in done.notes[1]


def test_the_head_of_a_backbone_is_new(tmp_path):
    tensors = {name: tensor for name, tensor in linear(3, seed=1).state_dict().items() if name.startswith("0")}
    model = linear(3)
    done = start(model, tensors, tmp_path, list("abc"), None)
    assert not model[1].weight.any() and not done.warnings
    assert "because their weights has no head: 1.weight, 1.bias" in done.notes[1]


def test_both_heads_of_a_distilled_model_are_new(tmp_path):
    torch.manual_seed(1)
    args = {"depth": 1}
    tensors = LIBRARIES["timm"].build("deit_tiny_distilled_patch16_224", 1000, 224, args).state_dict()
    name = "timm/deit_tiny_distilled_patch16_224"
    model = build_model(ModelConfig(name=name, args=args, channels_last=False), 5, 224)
    save_file(tensors, tmp_path / "w.safetensors")
    source = Source(tmp_path / "w.safetensors", "model.weights=w", "w", None)
    init_from(model, source, ModelConfig(name=name, args=args), list("abcde"), 224)
    state = model.state_dict()
    assert not any(state[name].any() for name in state if name.startswith("head"))
    assert torch.equal(state["dist_token"], tensors["dist_token"])


def test_rows_of_classes_with_the_same_name_or_a_synonym_are_kept(tmp_path):
    source, model = linear(4, seed=1), linear(4)
    names = ["dodo", "White_Shark", "macaw", "tabby-cat"]
    done = start(model, source.state_dict(), tmp_path, names, IMAGENET, keep_head_rows=True)
    for row, theirs in ((1, 1), (2, 3), (3, 2)):
        assert torch.equal(model[1].weight[row], source[1].weight[theirs]), names[row]
        assert torch.equal(model[1].bias[row], source[1].bias[theirs])
    assert not model[1].weight[0].any() and not model[1].bias[0].any()
    assert done.notes[1].endswith("the rows of White_Shark, macaw, tabby-cat are kept")


def test_rows_are_kept_only_if_asked_for(tmp_path):
    model = linear(2)
    start(model, linear(4, seed=1).state_dict(), tmp_path, ["macaw", "tench"], IMAGENET)
    assert not model[1].weight.any()


def test_rows_are_those_of_imagenets_classes(tmp_path):
    weights = LIBRARIES["timm"].weights("tf_efficientnet_lite0", None)
    assert weights is not None
    source, model = linear(1000, seed=1), linear(2)
    start(model, source.state_dict(), tmp_path, ["ant", "bee"], weights.class_names, keep_head_rows=True)
    assert torch.equal(model[1].weight, source[1].weight[[310, 309]])


@pytest.mark.parametrize(("old", "there"), [(IMAGENET, "its classes are tench"), (None, "does not say which it has")])
def test_no_row_to_keep_is_an_error(tmp_path, old, there):
    with pytest.raises(
        UsageError, match=f"model.keep_head_rows=true: no class of their weights .* dodo, kea: .*{there}"
    ):
        start(linear(2), linear(4, seed=1).state_dict(), tmp_path, ["dodo", "kea"], old, keep_head_rows=True)


def test_classes_in_a_config_of_transformers_are_found(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "dog", "0": "cat"}}))
    (tmp_path / "w.pt").touch()
    source = find_source(ModelConfig(init_from=str(tmp_path / "w.pt")))
    assert source is not None and source.class_names == ["cat", "dog"]
    (tmp_path / "config.json").write_text("{}")
    source = find_source(ModelConfig(init_from=str(tmp_path / "w.pt")))
    assert source is not None and source.class_names is None


# Training the head only ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "width", "head"),
    [("timm/test_vit", 160, 64, {"head.weight", "head.bias"}), ("airbench", 32, 256, {"head.weight"})],
)
def test_a_frozen_network_and_its_features_give_the_same_scores(name, size, width, head):
    model = build_model(ModelConfig(name=name, head_only=True, channels_last=False), 5, size).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = features_of(model, images, 5)
        assert features.shape == (2, width) and torch.allclose(model(features), model(images), atol=1e-6)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == head


@pytest.mark.parametrize("name", ["torchvision/squeezenet1_1", "timm/deit_tiny_distilled_patch16_224"])
def test_a_head_that_is_not_one_linear_layer_cannot_be_trained_alone(name):
    library, _, short = name.partition("/")
    with torch.device("meta"):
        model = LIBRARIES[library].build(short, 5, 224, {})
    with pytest.raises(UsageError, match="model.head_only=true needs a model that ends in one linear layer"):
        train_head_only(model, name, 5, 224)


def test_a_model_that_goes_on_after_its_last_layer_cannot_be_trained_on_features():
    class Sharper(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * 4

    model = Sharper(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(UsageError, match="model.head_only=true needs a model that ends in one linear layer"):
        train_head_only(model, "my:make", 5, 8)


def test_a_model_whose_head_gets_more_than_one_vector_of_each_image_cannot_be_trained_on_features():
    class Voting(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.flatten(2).transpose(1, 2)).mean(1)

    with pytest.raises(UsageError, match="model.head_only=true needs a model that ends in one linear layer"):
        train_head_only(Voting(nn.Linear(3, 4), nn.Linear(4, 5)), "my:make", 5, 8)


def test_images_that_are_too_small_for_a_model_are_told_before_its_head_is_trained():
    model = nn.Sequential(nn.Conv2d(3, 4, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(UsageError, match=r"model.name=my:make fails on two images of 8 pixels: .*data.image_size=N"):
        train_head_only(model, "my:make", 5, 8)


# Features ------------------------------------------------------------------------------------------


def test_each_thread_gets_the_features_of_its_own_images():
    both = threading.Barrier(2, timeout=10)

    class Meeting(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            both.wait()
            logits = super().forward(images)
            both.wait()
            return logits

    model = Meeting(nn.Flatten(), nn.Linear(12, 5))
    images = [torch.full((1, 3, 2, 2), float(number)) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        features = list(pool.map(lambda own: features_of(model, own, 5), images))
    assert all(torch.equal(found, own.flatten(1)) for found, own in zip(features, images, strict=True))


def test_a_network_without_a_head_that_it_calls_has_no_features():
    class Uncalled(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1) @ self[0].weight.T

    for model in (nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), Uncalled(nn.Linear(12, 5))):
        with pytest.raises(UsageError, match="the network has no last layer with 5 outputs, one per class, that"):
            features_of(model, torch.zeros(1, 3, 2, 2), 5)
