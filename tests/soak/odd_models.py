"""Models that do what networks seldom do: each trains right, or is refused before the first step."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn


def _convolutions(width: int = 8) -> list[nn.Module]:
    return [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class FrozenStatistics(nn.Module):
    """Keeps BatchNorm in evaluation mode whatever train() says: the usual idiom of fine-tuning."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(*_convolutions(), nn.Linear(8, num_classes))

    def train(self, mode: bool = True) -> FrozenStatistics:
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


class SkippedBlock(nn.Module):
    """Leaves a block with BatchNorm out of half of its passes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stem(images)
        if not self.training or torch.rand(()) < 0.5:
            features = features + self.block(features)
        return self.head(features.mean((2, 3)))


class OwnDraws(nn.Module):
    """Drops features with Python's and NumPy's generators."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*_convolutions()), nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        if self.training:
            kept = np.random.rand(8) < 0.9
            features = features * torch.from_numpy(kept).to(features) * (1 + 0.1 * random.random())
        return self.head(features)


class RunningMean(nn.Module):
    """Keeps a running mean of its own in a buffer."""

    center: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*_convolutions()), nn.Linear(8, num_classes)
        self.register_buffer("center", torch.zeros(8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        if self.training:
            self.center.lerp_(features.detach().mean(0), 0.1)
        return self.head(features - self.center)


class ExtraState(nn.Module):
    """Counts its passes in what get_extra_state returns."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(*_convolutions(), nn.Linear(8, num_classes))
        self.passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        return self.network(images)

    def get_extra_state(self) -> int:
        return self.passes

    def set_extra_state(self, state: int) -> None:
        self.passes = state


class MadeInForward(nn.Module):
    """Makes its head in the first forward pass."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, self.num_classes = nn.Sequential(*_convolutions()), num_classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        if not hasattr(self, "head"):
            self.head = nn.Linear(features.shape[1], self.num_classes)
        return self.head(features)


class TupleInTraining(nn.Module):
    """Returns an auxiliary output too while it trains."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Sequential(*_convolutions()), nn.Linear(8, num_classes), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        features = self.body(images)
        return (self.head(features), self.aux(features)) if self.training else self.head(features)


class Complex(nn.Module):
    """Filters in the frequency domain, with complex weights."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.ones(3, 1, 1, dtype=torch.complex64))
        self.network = nn.Sequential(*_convolutions(), nn.Linear(8, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(torch.fft.ifft2(torch.fft.fft2(images) * self.filter).real)


class SharedStorage(nn.Module):
    """Two parameters that are views of one storage."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, both = nn.Sequential(*_convolutions()), torch.randn(2, num_classes, 8) / 8
        self.first, self.second = nn.Parameter(both[0]), nn.Parameter(both[1])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        return features @ self.first.T + features.relu() @ self.second.T


def frozen_statistics(num_classes: int) -> nn.Module:
    return FrozenStatistics(num_classes)


def skipped_block(num_classes: int) -> nn.Module:
    return SkippedBlock(num_classes)


def own_draws(num_classes: int) -> nn.Module:
    return OwnDraws(num_classes)


def running_mean(num_classes: int) -> nn.Module:
    return RunningMean(num_classes)


def extra_state(num_classes: int) -> nn.Module:
    return ExtraState(num_classes)


def made_in_forward(num_classes: int) -> nn.Module:
    return MadeInForward(num_classes)


def tuple_in_training(num_classes: int) -> nn.Module:
    return TupleInTraining(num_classes)


def complex_weights(num_classes: int) -> nn.Module:
    return Complex(num_classes)


def shared_storage(num_classes: int) -> nn.Module:
    return SharedStorage(num_classes)


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))


def instance_norm(num_classes: int) -> nn.Module:
    norm = nn.InstanceNorm2d(8, track_running_stats=True, affine=True)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.LazyLinear(num_classes)
    )


def spectral(num_classes: int) -> nn.Module:
    head = nn.utils.parametrizations.spectral_norm(nn.Linear(8, num_classes))
    return nn.Sequential(*_convolutions(), head)


def old_spectral(num_classes: int) -> nn.Module:
    return nn.Sequential(*_convolutions(), nn.utils.spectral_norm(nn.Linear(8, num_classes)))


def tied(num_classes: int) -> nn.Module:
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    return nn.Sequential(*_convolutions(), first, nn.ReLU(), second, nn.Linear(8, num_classes))


def sparse(num_classes: int) -> nn.Module:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.levels = nn.EmbeddingBag(256, num_classes, sparse=True)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            levels = ((images.flatten(1) + 3) * 40).long().clamp(0, 255)
            return self.levels(levels)

    return Sparse()
