"""Trains the network on the images that a small one finds hardest, so that a step costs less than its whole batch.

After cifar10-airbench's airbench96_faster.py (Keller Jordan); the idea of choosing images by a smaller network is that
of Coleman et al., "Selection via Proxy" (arXiv 1906.11829).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.data.loading.micro_batch import MicroBatch
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.models.trial import try_model
from distcls.optim.losses import build_loss
from distcls.training.objectives.objective import Network, Objective, Task, Terms
from distcls.training.start.first_weights import START


class ProxySelection(Objective):
    """The loss of the share of each micro-batch whose images have the largest loss in a proxy network.

    The proxy sees all images of every micro-batch, and trains on the same chosen ones, but only in every
    `train_every`-th step. Its parameters are named "proxy.…" in `optim.groups`. The reported loss is a mean over the
    batch in which the other images count as 0; the reported accuracy is that of the chosen images, and
    `proxy_accuracy` that of the proxy on all.
    """

    classifies = True

    def __init__(
        self, task: Task, model: str, args: dict[str, Any] | None = None, share: float = 0.5, train_every: int = 4
    ) -> None:
        super().__init__(task)
        self.count = _count(share, task.plan.micro_batch_size)
        if not isinstance(train_every, int) or train_every < 1:
            raise UsageError(f"objective.args.train_every={train_every}: give a whole number of steps, 1 or more.")
        if not isinstance(model, str) or not isinstance(args or {}, dict):
            raise UsageError(
                f"objective.args={{model: {model}, args: {args}}}: give the name of a small network and its arguments, "
                "such as {model: cnn2, args: {}}."
            )
        self.train_every = train_every
        self.model = ModelConfig(name=model, args=args or {}, channels_last=task.config.model.channels_last)
        self.loss = build_loss(task.config.loss, task.class_weights)
        self.proxy: nn.Module

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return the proxy. What the network does not train, such as a whitening layer, is the same in both."""
        num_classes, image_size = self.task.num_classes, self.task.augment.image_size
        with _naming_the_proxy():
            self.proxy = build_model(self.model, num_classes, image_size)
            moving = try_model(self.proxy, self.model.name, num_classes, image_size).moving
        if moving:
            raise UsageError(
                f"objective.args.model={self.model.name} changes its buffer {moving[0]!r} in each pass, which only "
                "the network itself may: choose another network as the proxy."
            )
        frozen = {name: values for name, values in network.named_parameters() if not values.requires_grad}
        for name, parameter in self.proxy.named_parameters():
            if parameter.requires_grad:
                continue
            if name in frozen and frozen[name].shape == parameter.shape:
                parameter.data.copy_(frozen[name])
            elif hasattr(self.proxy, START) and not hasattr(network, START):
                raise UsageError(
                    f"objective.args.model={self.model.name} has a first layer that is computed from the images, "
                    "which works only if model.name has one too: choose another network as the proxy."
                )
        return {"proxy": self.proxy}

    def __call__(self, network: Network, micro_batch: MicroBatch, step: int) -> Terms:
        """See Objective. The chosen images keep their order; images that are not chosen have a loss of 0."""
        images, targets = self.task.view(micro_batch, step)
        trains_proxy = step % self.train_every == 0
        with torch.set_grad_enabled(trains_proxy):
            proxy_logits = self.proxy(images)
            proxy_losses = self.loss(proxy_logits, targets)
        ranked = proxy_losses.detach()
        weights = micro_batch.weights() if micro_batch.went_bad else torch.ones_like(ranked)
        ranked = ranked.masked_fill(weights == 0, -torch.inf)
        chosen = ranked.argsort(descending=True, stable=True)[: self.count].sort().values
        logits = network(images[chosen])
        losses = self.loss(logits, targets[chosen])
        if trains_proxy:  # a gradient, but no part of the loss that is reported
            of_proxy = proxy_losses[chosen]
            losses = losses + (of_proxy - of_proxy.detach())
        labels = micro_batch.labels
        correct = (logits.detach().argmax(1) == labels[chosen]) * weights[chosen]
        proxy_correct = (proxy_logits.detach().argmax(1) == labels) * weights
        spread = torch.zeros_like(ranked).index_copy(0, chosen, losses.to(ranked.dtype))
        sums = {"accuracy": correct.sum() * len(ranked) / self.count, "proxy_accuracy": proxy_correct.sum()}
        return Terms(spread, sums)


def _count(share: float, micro_batch_size: int) -> int:
    """Return how many images of a micro-batch are chosen. Raises UsageError if that is none or more than all."""
    count = round(share * micro_batch_size) if isinstance(share, int | float) else 0
    if not 1 <= count <= micro_batch_size:
        raise UsageError(
            f"objective.args.share={share}: give a share of each micro-batch's {micro_batch_size} images, above 0 and "
            "up to 1, that is at least one image, such as 0.5."
        )
    return count


@contextmanager
def _naming_the_proxy() -> Iterator[None]:
    """Raise what is wrong with the proxy under the names of its own settings."""
    try:
        yield
    except UsageError as error:
        text = str(error).replace("model.name", "objective.args.model").replace("model.args", "objective.args.args")
        raise UsageError(text) from error
