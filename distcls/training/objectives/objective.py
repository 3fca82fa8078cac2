"""What an objective gets, and what it gives: the one contract between a training step and what it minimises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from distcls.config.settings import Config
from distcls.data.augmentation.batchwise import Augmentation, draw_crops, draw_numbers
from distcls.data.loading.micro_batch import MicroBatch, Numbers
from distcls.data.split import Data, Split
from distcls.optim.losses import weigh_classes
from distcls.plan.batches import BatchPlan


@dataclass
class Task:
    """What a run gives an objective to build itself from."""

    config: Config
    plan: BatchPlan
    images: Split
    """The training images."""
    num_classes: int
    augment: Augmentation
    device: torch.device
    class_weights: torch.Tensor | None = None
    """(C,) of loss.class_weights, on the device."""
    _drawn: dict[tuple[int, int], Numbers] = field(default_factory=dict, repr=False)

    def view(self, micro_batch: MicroBatch, step: int, number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The images (m, 3, H, W) and targets of a micro-batch as `augment.*` changes them.

        View 0 is the one that every objective sees. Views 1, 2 … are drawn anew, keyed by the step and the place in
        the global batch, so they are the same on any number of processes. What loader workers did
        (augment.transforms, crops while reading) is the same in all views.
        """
        if number == 0:
            return self.augment(micro_batch)
        plan, numbers = self.plan, self._numbers(step, number, "box" in micro_batch.numbers)
        rows = slice(micro_batch.index * plan.micro_batch_size, (micro_batch.index + 1) * plan.micro_batch_size)
        own = {name: table[rows].to(self.device) for name, table in numbers.items()}
        return self.augment(
            MicroBatch(micro_batch.index, micro_batch.pixels, micro_batch.labels, own, rows=micro_batch.rows)
        )

    def _numbers(self, step: int, number: int, with_crops: bool) -> Numbers:
        """The table of a view for the whole global batch. That of a step serves all micro-batches of it."""
        if (step, number) not in self._drawn:
            self._drawn = {key: table for key, table in self._drawn.items() if key[0] == step}
            numbers = draw_numbers(self.config.augment, self.plan, step, number)
            if with_crops and self.images.random_crop is not None:
                crops = draw_crops(self.plan, step, number)
                numbers["box"] = torch.from_numpy(self.images.random_crop.boxes(crops, self.images.decoding))
            self._drawn[step, number] = numbers
        return self._drawn[step, number]


def describe_task(
    config: Config, data: Data, plan: BatchPlan, augment: Augmentation, device: torch.device, dtype: torch.dtype
) -> Task:
    """Return what the objective of this run is built from."""
    weights = weigh_classes(config.loss, data.train.labels, data.class_names)
    tensor = None if weights is None else torch.from_numpy(weights).to(dtype).to(device)
    return Task(config, plan, data.train, len(data.class_names), augment, device, tensor)


class Terms(NamedTuple):
    """What an objective gives for a micro-batch."""

    losses: torch.Tensor
    """(m,), one per image. The step sums them over the global batch, and divides by its number of images."""
    sums: dict[str, torch.Tensor]
    """Sums over the images of the micro-batch, by name: the same names and shapes in every step. Divided by the
    number of images in the global batch, they reach `Objective.update`; "accuracy" is reported and logged. Not the
    names of the step's own numbers: loss, grad_norm, loss_scale, moved."""


class Network:
    """The network as an objective uses it: one forward pass that trains, and any number of others."""

    def __init__(self, module: nn.Module, model: nn.Module, autocast: Callable[[], AbstractContextManager]) -> None:
        self.module = module
        """The plain network, whose weights are trained."""
        self.model, self.autocast = model, autocast
        self.has_run = False

    def begin(self) -> Network:
        """Allow the forward pass of the next micro-batch."""
        self.has_run = False
        return self

    def __call__(self, *inputs: torch.Tensor, method: str = "forward") -> Any:
        """The forward pass that trains, or another method of the network: behind DDP, under autocast, compiled.

        Once per micro-batch, else RuntimeError: put several views into one call (torch.cat).
        """
        if self.has_run:
            raise RuntimeError(
                "the objective has called the network twice for one micro-batch: put all images that train it into "
                "one call (torch.cat), and use `with network.as_evaluated():` for other forward passes"
            )
        self.has_run = True
        return self.model(*inputs) if method == "forward" else self.model(*inputs, method=method)

    @contextmanager
    def as_evaluated(self, module: nn.Module | None = None) -> Iterator[nn.Module]:
        """The plain network, or another module, for any other forward pass by any of its methods.

        Inside it is in evaluation mode, so that BatchNorm's statistics stay those of the pass that trains, and under
        autocast. Gradients are kept, unless torch.no_grad() is asked for.
        """
        module = self.module if module is None else module
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            with self.autocast():
                yield module
        finally:
            for part, mode in modes:
                part.training = mode


class Objective:
    """Turns the network and a micro-batch into one loss per image and named sums. Derive your own from it.

    It is made before the first step, as make(task, **objective.args). It sees only its micro-batch, so that nothing
    depends on the number of processes. Draws from the generators of torch, NumPy and Python are keyed by the step
    and the micro-batch. What it has to remember from step to step belongs into one of its `modules`.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return the modules it has beside the network, by name, given the network with its first weights.

        Called once. Checkpoints keep them under these names. Parameters that require a gradient are trained, with
        `optim.*`, as those of the network are; a module without any is in evaluation mode.
        """
        return {}

    def __call__(self, network: Network, micro_batch: MicroBatch, step: int) -> Terms:
        """Return losses and sums of a micro-batch in a step, the first of which is 0."""
        raise NotImplementedError

    def update(self, means: dict[str, torch.Tensor], step: int) -> None:
        """Called once a step, after the weights have moved: a teacher follows, a centre moves.

        means: the sums of `Terms` over the global batch, divided by its number of images.
        """
