"""A network with its BatchNorms folded into its convolutions gives the same probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distcls.config.loading import load_config
from distcls.data.decoding.decode import Decoding
from distcls.inference.classifier import Classifier
from distcls.models.build import build_model
from distcls.serving.fusing import TOLERANCE, fused

pytestmark = pytest.mark.usefixtures("one_thread")


def classifier_of(network: nn.Module, *settings: str) -> Classifier:
    """A classifier whose BatchNorms have seen images."""
    torch.manual_seed(0)
    with torch.no_grad():
        network(torch.randn(16, 3, 32, 32))
    config = load_config(None, ["train.precision=float32", *settings])
    return Classifier(network, config, list("abcdefghij"), Decoding(32)).eval()


def num_norms(classifier: Classifier) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in classifier.modules())


@pytest.mark.parametrize("name", ["cnn2", "resnet9", "torchvision/resnet18"])
def test_the_probabilities_are_the_same_and_norms_are_gone(name):
    classifier = classifier_of(build_model(load_config(None, [f"model.name={name}"]).model, 10, 32))
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    before, weights = classifier(images), {n: p.clone() for n, p in classifier.state_dict().items()}
    faster = fused(classifier)
    assert num_norms(faster) < num_norms(classifier)
    assert (faster(images) - before).abs().max() <= TOLERANCE
    assert torch.equal(classifier(images), before)
    assert all(torch.equal(weights[n], p) for n, p in classifier.state_dict().items())


class Branching(nn.Module):
    """Looks at its images before it knows what to do, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.convolution(images))
        return self.head(features.amax((2, 3)) if images.sum() > 0 else features.mean((2, 3)))


class Hooked(nn.Sequential):
    """Its convolution has a hook, which the folded weights know nothing of."""

    def __init__(self) -> None:
        convolution = nn.Conv2d(3, 4, 3)
        convolution.register_forward_hook(lambda layer, inputs, output: 2 * output + 1)
        super().__init__(convolution, nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


@pytest.mark.parametrize("network", [Branching(), Hooked(), nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))])
def test_a_network_that_cannot_be_folded_gives_its_own_probabilities(network):
    classifier = classifier_of(network)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    assert (fused(classifier)(images) - classifier(images)).abs().max() <= TOLERANCE


def test_in_other_precisions_nothing_is_folded():
    classifier = classifier_of(build_model(load_config(None, []).model, 10, 32), "train.precision=bf16")
    assert fused(classifier) is classifier


class Sure(Hooked):
    """So sure of its first class that probabilities are 0 and 1, and do not show a mistake."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self[4].bias.copy_(torch.tensor([1000.0, *[0.0] * 9]))


def test_logits_are_compared_because_sure_probabilities_hide_mistakes():
    classifier = classifier_of(Sure())
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(classifier(images), fused(classifier)(images))
    assert torch.equal(fused(classifier).logits(images), classifier.logits(images))
