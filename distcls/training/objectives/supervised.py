"""The usual objective of a classifier: the loss of its logits, given the labels."""

from __future__ import annotations

from distcls.data.loading.micro_batch import MicroBatch
from distcls.optim.losses import build_loss
from distcls.training.objectives.objective import Network, Objective, Task, Terms


class Supervised(Objective):
    """Computes `loss.name` of logits and targets, and counts correct predictions."""

    classifies = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.loss = build_loss(task.config.loss, task.class_weights)

    def __call__(self, network: Network, micro_batch: MicroBatch, step: int) -> Terms:
        """See Objective. A mixed image counts as correct if the label of its first image is predicted."""
        images, targets = self.task.view(micro_batch, step)
        logits = network(images)
        losses = self.loss(logits, targets)
        correct = logits.detach().argmax(1) == micro_batch.labels
        if micro_batch.went_bad:
            correct = correct * micro_batch.weights()
        return Terms(losses, {"accuracy": correct.sum()})
