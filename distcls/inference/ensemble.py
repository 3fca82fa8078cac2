"""Averages the probabilities of several classifiers that look at the same images: an ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from distcls.data.split import Split
from distcls.inference.classifier import Classifier


class Member(NamedTuple):
    """A classifier, and the images to classify, decoded as it was trained to see them."""

    classifier: Classifier
    split: Split


def averaged(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return logits (n, C) whose softmax is the mean of the members' probabilities. Those of one stay as they are."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([one.log_softmax(1) for one in logits]).logsumexp(0) - math.log(len(logits))
