"""Evaluates a split: every image counts exactly once, with the same result on any number of processes."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Sequence

import torch

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.data.loading.loader import eval_batches
from distcls.data.split import Split
from distcls.inference.classifier import Classifier
from distcls.inference.ensemble import Member, averaged
from distcls.inference.metrics import SplitMetrics
from distcls.inference.probabilities import Probabilities
from distcls.optim.losses import build_loss


class Evaluator:
    """Evaluates classifiers on splits, on all processes together."""

    def __init__(self, config: Config, processes: Processes) -> None:
        self.batch_size, self.workers, self.processes = config.train.eval_batch_size, config.data.workers, processes
        # Smoothed targets are for training; the reported loss is that of the true class.
        self.loss = build_loss(dataclasses.replace(config.loss, label_smoothing=0.0))

    def __call__(
        self,
        classifier: Classifier,
        split: Split,
        keep: Probabilities | None = None,
        others: Sequence[Member] = (),
    ) -> SplitMetrics | None:
        """Return the metrics of a classifier on a split; None if a process was asked to stop meanwhile.

        keep: collects the probabilities of all images, on the main process. others: the other members of an ensemble,
        with the same images in the same order, decoded for each of them.

        The split is divided into batches, in order, the last one short; rank r takes batches r, r + W, r + 2W … Some
        ranks may have no batch in the last round, but all of them vote in each round.
        """
        from distcls.inference.sums import SplitSums  # it imports torchmetrics, which takes seconds

        device, processes = self.processes.device, self.processes
        sums = SplitSums(len(classifier.class_names), split.labels, self.batch_size)
        sums.to("cpu" if device.type == "mps" else device)  # MPS has no float64
        members = [Member(classifier, split), *others]
        seen_by_each = zip(*map(self._batches, members), strict=True)
        for member in members:
            member.classifier.eval()
        with torch.inference_mode():
            for _ in range(-(-len(split) // (self.batch_size * processes.world_size))):
                if processes.asked_to_stop():
                    return None
                probs = None
                for seen in itertools.islice(seen_by_each, 1):
                    index, _, labels = seen[0]
                    logits = averaged(
                        [one.classifier.logits(batch[1]) for one, batch in zip(members, seen, strict=True)]
                    )
                    losses = self.loss(logits, labels)
                    sums.update(index, logits.to(sums.device), labels.to(sums.device), losses.to(sums.device))
                    probs = logits.softmax(1) if keep is not None else None
                if keep is not None:
                    keep.add(probs)
        with warnings.catch_warnings():  # on a process without a batch
            warnings.filterwarnings("ignore", message="The ``compute`` method")
            metrics = sums.compute()
        if metrics.values["count"] != len(split):
            raise AssertionError(f"{metrics.values['count']} images were counted, {split.name} has {len(split)}")
        return metrics

    def _batches(self, member: Member) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        processes = self.processes
        return eval_batches(
            member.split, self.batch_size, processes.device, self.workers, processes.rank, processes.world_size
        )
