"""A loss is one number per image, so that it can be summed in one order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distcls.config import LossConfig
from distcls.errors import UsageError
from distcls.loss import build_loss


def test_cross_entropy_is_one_number_per_image():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    losses = build_loss(LossConfig())(logits, labels)
    assert losses.shape == (5,)
    torch.testing.assert_close(losses, -logits.log_softmax(1)[torch.arange(5), labels])


def test_mixed_targets_are_shares():
    logits, shares = torch.randn(4, 3), torch.tensor([[0.3, 0.7, 0.0]]).repeat(4, 1)
    losses = build_loss(LossConfig())(logits, shares)
    torch.testing.assert_close(losses, -(shares * logits.log_softmax(1)).sum(1))


@pytest.mark.parametrize("mixed", [False, True])
def test_smoothing_spreads_a_share_of_the_target_over_all_classes(mixed):
    logits, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    hard = F.one_hot(labels, 4).float()
    losses = build_loss(LossConfig(label_smoothing=0.2))(logits, hard if mixed else labels)
    soft = 0.8 * hard + 0.2 / 4
    torch.testing.assert_close(losses, -(soft * logits.log_softmax(1)).sum(1))


def test_an_unknown_loss_names_the_nearest_and_the_known_ones():
    with pytest.raises(UsageError, match=r"loss.name=cross_entropie: .*mean 'cross_entropy'.*my_pkg.module:loss"):
        build_loss(LossConfig(name="cross_entropie"))


def test_your_own_loss_is_imported():
    logits, targets = torch.randn(4, 3), torch.randn(4, 3)
    loss = build_loss(LossConfig(name="torch.nn.functional:pairwise_distance"))
    assert torch.equal(loss(logits, targets), F.pairwise_distance(logits, targets))


def test_a_loss_that_is_already_a_mean_is_an_error():
    loss = build_loss(LossConfig(name="torch.nn.functional:cross_entropy"))
    with pytest.raises(UsageError, match="one number per image"):
        loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
