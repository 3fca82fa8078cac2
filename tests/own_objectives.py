"""Objectives of somebody's own, for tests: two views with a momentum teacher, and images that weigh; and a proxy."""

from __future__ import annotations

import copy
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from distcls.data.loading.micro_batch import MicroBatch
from distcls.training.objectives.objective import Network, Objective, Task, Terms


class Features(nn.Module):
    """A small network of which another method than forward is trained."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16)
        )
        self.dropout, self.head = nn.Dropout(0.3), nn.Linear(16, num_classes)
        self.body(torch.zeros(2, 3, 8, 8))

    def both(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(images)
        return features, self.head(self.dropout(features))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.both(images)[1]


class Center(nn.Module):
    """The running mean of what the teacher says."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(16))


class TwoViews(Objective):
    """The student's projected features of one view follow the teacher's of the other, beside the labels."""

    def __init__(self, task: Task, momentum: float = 0.8) -> None:
        super().__init__(task)
        self.momentum = momentum

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        self.network, self.teacher, self.center = network, copy.deepcopy(network).requires_grad_(False), Center()
        self.projector = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))
        return {"teacher": self.teacher, "projector": self.projector, "center": self.center}

    def __call__(self, network: Network, micro_batch: MicroBatch, step: int) -> Terms:
        first, _ = self.task.view(micro_batch, step)
        second, _ = self.task.view(micro_batch, step, number=1)
        features, logits = network(torch.cat([first, second]), method="both")
        with torch.no_grad(), network.as_evaluated(self.teacher):
            targets = self.teacher.both(torch.cat([second, first]))[0].to(logits.dtype)
        apart = (self.projector(features) - (targets - self.center.value)).square().mean(1)
        one, other = apart.chunk(2)
        labels = micro_batch.labels
        losses = F.cross_entropy(logits[: len(labels)], labels, reduction="none") + one + other
        correct = logits[: len(labels)].argmax(1) == labels
        return Terms(losses, {"accuracy": correct.sum(), "center": targets.sum(0) / 2, "apart": (one + other).sum()})

    def update(self, means: dict[str, torch.Tensor], step: int) -> None:
        self.center.value.lerp_(means["center"], 0.1)
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.network.parameters()), 1 - self.momentum)
        for mine, theirs in zip(self.teacher.buffers(), self.network.buffers(), strict=True):
            mine.copy_(theirs)


class Weighed(Objective):
    """Hard images weigh less at first, and a little by chance, drawn from every generator there is."""

    def __call__(self, network: Network, micro_batch: MicroBatch, step: int) -> Terms:
        images, targets = self.task.view(micro_batch, step)
        logits = network(images)
        losses = F.cross_entropy(logits, targets, reduction="none")
        chance = torch.rand(len(losses)) * random.random() * float(np.random.random())
        weights = (losses.detach() < 1.5 + step / 10).to(losses.dtype) + 0.1 * chance.to(losses.dtype)
        correct = logits.argmax(1) == micro_batch.labels
        return Terms(losses * weights, {"weight": weights.sum(), "accuracy": correct.sum()})


def not_an_objective(task: Task) -> int:
    """A mistake that somebody could make."""
    return 0


class Counting(nn.Module):
    """A classifier that counts its passes in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.head(images.mean((2, 3)))


def counting(num_classes: int) -> nn.Module:
    return Counting()
