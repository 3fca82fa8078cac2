"""The contract between a training step and the objective it minimises: what an objective gets and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from distcls.config.settings import Config
from distcls.data.augmentation.batchwise import Augmentation, draw_numbers
from distcls.data.loading.micro_batch import MicroBatch, Numbers
from distcls.data.loading.transfer import to_device
from distcls.data.split import Data, Split
from distcls.optim.losses import weigh_classes
from distcls.plan.batches import BatchPlan
from distcls.training.parts import part


@dataclass
class Task:
    """The run, as an objective needs it to build itself."""

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
        """Return the images (m, 3, H, W) and targets of a micro-batch, augmented by `augment.*`.

        View 0 is the one that every objective sees. Views 1, 2 … have their own random draws, keyed by the step and the
        position in the global batch, so they are the same on any number of processes. The random crop and
        augment.transforms are the same in all views, because loader workers may do them while they read an image.
        """
        if number == 0:
            with part("augment"):
                return self.augment(micro_batch)
        plan, numbers = self.plan, self._numbers(step, number)
        rows = slice(micro_batch.index * plan.micro_batch_size, (micro_batch.index + 1) * plan.micro_batch_size)
        own = to_device({name: table[rows] for name, table in numbers.items()}, self.device)
        if "box" in micro_batch.numbers:
            own["box"] = micro_batch.numbers["box"]
        return self.augment(
            MicroBatch(micro_batch.index, micro_batch.pixels, micro_batch.labels, own, rows=micro_batch.rows)
        )

    def _numbers(self, step: int, number: int) -> Numbers:
        """Return a view's random numbers for the whole global batch, drawn once for all its micro-batches."""
        if (step, number) not in self._drawn:
            self._drawn = {key: table for key, table in self._drawn.items() if key[0] == step}
            self._drawn[step, number] = draw_numbers(self.config.augment, self.plan, step, number)
        return self._drawn[step, number]


def describe_task(
    config: Config, data: Data, plan: BatchPlan, augment: Augmentation, device: torch.device, dtype: torch.dtype
) -> Task:
    """Return the task of this run's objective."""
    weights = weigh_classes(config.loss, data.train.labels, data.class_names)
    tensor = None if weights is None else torch.from_numpy(weights).to(dtype).to(device)
    return Task(config, plan, data.train, len(data.class_names), augment, device, tensor)


class Terms(NamedTuple):
    """An objective's result for a micro-batch."""

    losses: torch.Tensor
    """(m,), one per image. The step sums them over the global batch and divides by its number of images."""
    sums: dict[str, torch.Tensor]
    """Sums over the images of the micro-batch, by name, with the same names and shapes in every step. They are divided
    by the number of images in the global batch, and `Objective.update` gets them all. Those that are one number (shape
    ()) become columns of metrics.csv and curves in TensorBoard; "accuracy" is shown on the live line too. Names of
    other columns of the training rows, such as loss or lr, cannot be used."""


class Network:
    """The network as an objective uses it: one forward pass that trains, and any number that do not."""

    def __init__(self, module: nn.Module, model: nn.Module, autocast: Callable[[], AbstractContextManager]) -> None:
        self.module = module
        """The plain network, which is trained."""
        self.model, self.autocast = model, autocast
        self.has_run = False

    def begin(self) -> Network:
        """Allow the forward pass of the next micro-batch."""
        self.has_run = False
        return self

    def __call__(self, *inputs: torch.Tensor, method: str = "forward") -> Any:
        """Run the forward pass that trains, or another method of the network: with DDP, autocast and compile.

        Call it once per micro-batch, with several views in one call (torch.cat); a second call raises RuntimeError.
        """
        if self.has_run:
            raise RuntimeError(
                "the objective called the network twice for one micro-batch: put all images that train it into "
                "one call (torch.cat), and use `with network.as_evaluated():` for other forward passes"
            )
        self.has_run = True
        return self.model(*inputs) if method == "forward" else self.model(*inputs, method=method)

    @contextmanager
    def as_evaluated(self, module: nn.Module | None = None) -> Iterator[nn.Module]:
        """Yield the plain network, or another module, for forward passes that do not train it, by any method.

        Inside, it is in evaluation mode, so that BatchNorm's statistics come only from the pass that trains, and under
        autocast. Gradients flow unless torch.no_grad() is used.
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
    """Computes one loss per image, and named sums, from the network and a micro-batch. Derive your own from it.

    It is built before the first step, as make(task, **objective.args). It sees only its micro-batch, so that nothing
    depends on the number of processes. The generators of torch, NumPy and Python are seeded by the step and the
    micro-batch. Anything it must remember from step to step belongs in one of its `modules`.
    """

    classifies: bool = False
    """True if it calls the network once per micro-batch, for logits (m, C): the network is checked for that first."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return the objective's modules besides the network, by name, given the network with its initial weights.

        Called once. Checkpoints store them under these names. Parameters that require a gradient are trained with
        `optim.*`, like those of the network; a module without any is in evaluation mode.
        """
        return {}

    def __call__(self, network: Network, micro_batch: MicroBatch, step: int) -> Terms:
        """Return losses and sums of a micro-batch. step: counted from 0."""
        raise NotImplementedError

    def update(self, means: dict[str, torch.Tensor], step: int) -> None:
        """Update the objective's modules, once a step after the weights have moved: a teacher follows, a center moves.

        means: the sums of `Terms` over the global batch, divided by its number of images.
        """
