"""Grad-CAM points at what decides, in networks of any kind, and leaves them as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from distcls.config.settings import Config, ModelConfig, TrainConfig
from distcls.data.decoding.decode import Decoding
from distcls.errors import UsageError
from distcls.inference.classifier import Classifier
from distcls.inference.gradcam import grad_cam, gradcam_layer, overlay
from distcls.models.build import build_model


class Colors(nn.Module):
    """Tells red from green from blue by the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(4)
        self.head = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.head.weight.copy_(torch.eye(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.relu(self.conv(images))).mean((2, 3)))


class Mean(nn.Module):
    """A ViT without attention: tokens of 4 × 4 pixels behind two tokens that are zero, of which the mean is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 3, 4, 4, bias=False)
        self.norm = nn.Identity()
        self.head = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.patches.weight.copy_(torch.eye(3).view(3, 3, 1, 1).expand(-1, -1, 4, 4) / 16)
            self.head.weight.copy_(torch.eye(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(torch.cat([torch.zeros_like(tokens[:, :2]), tokens], 1)).mean(1))


def classifier_of(network: nn.Module, size: int, num_classes: int = 3, precision: str = "float32") -> Classifier:
    config = Config(train=TrainConfig(precision=precision))
    return Classifier(network, config, [f"class {i}" for i in range(num_classes)], Decoding(size))


def built(name: str, size: int, num_classes: int = 3, **args: object) -> Classifier:
    torch.manual_seed(0)
    return classifier_of(build_model(ModelConfig(name=name, args=args), num_classes, size), size, num_classes)


def noise(number: int, size: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, size, size, 3), dtype=torch.uint8, generator=draw)


def colored() -> np.ndarray:
    """Two images of gray: one with red on its left and green at the bottom right, one with blue at the top."""
    images = np.full((2, 16, 16, 3), 90, np.uint8)
    images[0, :, :4, 0] = 255
    images[0, 12:, 12:, 1] = 255
    images[1, :4, :, 2] = 255
    return images


def predicted(classifier: Classifier, images: torch.Tensor | np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return classifier(torch.as_tensor(images)).argmax(1)


@pytest.mark.parametrize("network", [Colors(), Mean()])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_heat_is_where_a_class_is_seen(network: nn.Module, precision: str) -> None:
    classifier = classifier_of(network, 16, precision=precision)
    red, blue = grad_cam(classifier, colored(), predicted(classifier, colored()))
    assert red.shape == (16, 16) and red.dtype == np.float32 and red.max() == 1 and red.min() >= 0
    assert red[:, :3].min() > 0.8 and red[:, 6:].max() < 0.5
    assert blue[:3].min() > 0.8 and blue[6:].max() < 0.5
    green = grad_cam(classifier, colored(), np.array([1, 1]))[0]
    assert green[14:, 14:].min() > 0.8 and green[:, :8].max() < 0.5


def test_the_layer_before_pooling_is_taken() -> None:
    assert (gradcam_layer(classifier_of(Colors(), 16), colored()).name) == "relu"
    assert gradcam_layer(classifier_of(Mean(), 16), colored()).layout == "tokens"


def test_a_network_that_calls_no_last_layer_has_a_layer_too() -> None:
    class Direct(Colors):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.pool(self.relu(self.conv(images))).mean((2, 3)) @ self.head.weight

    assert gradcam_layer(classifier_of(Direct(), 16), colored()).name == "relu"
    assert gradcam_layer(classifier_of(Direct(), 16, num_classes=2), colored()).name == "relu", "no head at all"


LAYERS = {
    ("cnn2", 8): ("blocks.1.2", "channels first", 4),
    ("resnet9", 32): ("layer3", "channels first", 4),
    ("tiny_resnet", 32): ("layer2", "channels first", 8),
    ("timm/test_vit", 160): ("blocks.5.norm1", "tokens", 10),
    ("timm/test_efficientnet", 64): ("bn2", "channels first", 2),
    ("timm/test_mambaout", 64): ("stages", "channels last", 2),
}
"""By model and image size: the layer, its layout and its side."""

MORE_LAYERS = {
    ("simple_cnn", 32): ("blocks.2.2", "channels first", 8),
    ("torchvision/mobilenet_v3_small", 64): ("features", "channels first", 2),
    ("torchvision/resnet18", 64): ("layer4", "channels first", 2),
    ("torchvision/alexnet", 64): ("features.11", "channels first", 3),
    ("torchvision/vgg11", 64): ("features.19", "channels first", 4),
    ("torchvision/vit_b_32", 64): ("encoder.layers.encoder_layer_11.ln_1", "tokens", 2),
    ("torchvision/swin_t", 64): ("permute", "channels first", 2),
    ("torchvision/densenet121", 64): ("features", "channels first", 2),
    ("timm/test_vit2", 64): ("norm", "tokens", 4),
    ("timm/test_vit3", 160): ("norm", "tokens", 10),
    ("timm/test_convnext", 64): ("norm_pre", "channels first", 2),
    ("timm/test_maxvit", 64): ("norm", "channels first", 2),
    ("timm/mixer_s32_224", 224): ("norm", "tokens", 7),
}


@pytest.mark.parametrize(("model", "size"), LAYERS)
def test_each_kind_of_network_has_a_layer(model: str, size: int, one_thread: None) -> None:
    check_layer(model, size, LAYERS[model, size])


@pytest.mark.extras
@pytest.mark.parametrize(("model", "size"), MORE_LAYERS)
def test_more_networks_have_a_layer(model: str, size: int, one_thread: None) -> None:
    check_layer(model, size, MORE_LAYERS[model, size])


def check_layer(model: str, size: int, expected: tuple[str, str, int]) -> None:
    args = {"img_size": size} if "test_vit" in model else {}
    classifier = built(model, size, **args)
    images = noise(2, size)
    layer = gradcam_layer(classifier, images)
    assert (layer.name, layer.layout, layer.side) == expected
    heat = grad_cam(classifier, images, torch.tensor([0, 1]), layer)
    assert heat.shape == (2, size, size) and np.isfinite(heat).all() and 0 <= heat.min() <= heat.max() <= 1


def test_the_classifier_stays_as_it_was() -> None:
    classifier = built("tiny_resnet", 16)
    classifier.network.train()
    classifier.network.get_submodule("layer1").eval()
    next(classifier.network.parameters()).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in classifier.network.state_dict().items()}
    modes = [module.training for module in classifier.modules()]
    needs = [parameter.requires_grad for parameter in classifier.parameters()]
    with torch.inference_mode():
        images = noise(3, 16)
        grad_cam(classifier, images, np.array([0, 1, 2]))
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.network.state_dict().items())
    assert [module.training for module in classifier.modules()] == modes
    assert [parameter.requires_grad for parameter in classifier.parameters()] == needs
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(module._forward_hooks for module in classifier.modules())


def test_an_image_has_the_same_heat_in_any_batch(one_thread: None) -> None:
    classifier, images = built("cnn3", 16), noise(11, 16)
    classes = predicted(classifier, images)
    alone = np.concatenate(
        [grad_cam(classifier, image[None], chosen[None]) for image, chosen in zip(images, classes, strict=True)]
    )
    assert np.abs(grad_cam(classifier, images, classes) - alone).max() < 1e-5


def test_deterministic_mode_is_restored() -> None:
    mode = torch.get_deterministic_debug_mode()
    try:
        torch.set_deterministic_debug_mode("error")
        grad_cam(built("simple_cnn", 8), noise(2, 8), np.array([0, 1]))
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.set_deterministic_debug_mode(mode)


def test_a_network_without_maps_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UsageError, match="needs a layer whose output is laid out like the image .* \\(Sequential\\)"):
        grad_cam(classifier_of(flat, 8), noise(2, 8), np.array([0, 1]))

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3), nn.Linear(3, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.head(self.conv(images).mean((2, 3)))

    with pytest.raises(UsageError, match="through which gradients flow"):
        grad_cam(classifier_of(Blind(), 8), noise(2, 8), np.array([0, 1]))


def test_no_images_give_no_heat() -> None:
    assert grad_cam(built("cnn2", 8), noise(1, 8)[:0], np.array([], np.int64)).shape == (0, 8, 8)


def test_a_picture_shows_its_heat() -> None:
    pixels, heat = np.full((1, 2, 2, 3), 100, np.uint8), np.array([[[0.0, 1.0], [0.5, 0.0]]], np.float32)
    drawn = overlay(pixels, heat)
    assert drawn.shape == pixels.shape and drawn.dtype == np.uint8
    assert (drawn[0, 0, 0] == 100).all() and (drawn[0, 1, 1] == 100).all()
    assert drawn[0, 0, 1, 0] > 200 and drawn[0, 0, 1, 1] > 200
    assert (overlay(pixels[0], heat[0]) == drawn[0]).all()
