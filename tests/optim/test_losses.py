"""A loss is one number per image, so that it can be summed in one order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distcls.config.settings import LossConfig
from distcls.errors import UsageError
from distcls.optim.losses import build_loss, weigh_classes


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


# Imbalance -----------------------------------------------------------------------------------------

LABELS = np.repeat([0, 1, 2], [60, 30, 10])
NAMES = ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    ("settings", "ratios"),
    [
        ({"class_weights": "balanced"}, [1, 2, 6]),
        (
            {"class_weights": "effective", "beta": 0.9},
            [1, (1 - 0.9**60) / (1 - 0.9**30), (1 - 0.9**60) / (1 - 0.9**10)],
        ),
        ({"class_weights": "effective", "beta": 0.0}, [1, 1, 1]),
        ({"class_weights": {"owl": 4.0, "cat": 0.5}}, [0.5, 1, 4]),
    ],
)
def test_weights_have_the_right_ratios_and_a_mean_of_one_over_the_images(settings, ratios):
    weights = weigh_classes(LossConfig(**settings), LABELS, NAMES)
    assert weights is not None
    assert weights / weights[0] == pytest.approx(np.array(ratios) / ratios[0])
    assert weights[LABELS].mean() == pytest.approx(1)


def test_a_weight_for_what_is_no_class_is_an_error():
    assert weigh_classes(LossConfig(), LABELS, NAMES) is None
    with pytest.raises(UsageError, match=r"no class 'cow'. Did you mean 'owl'\? The classes are cat, dog, owl\."):
        weigh_classes(LossConfig(class_weights={"cow": 2.0}), LABELS, NAMES)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_losses_are_sums_over_classes_for_ids_and_for_shares(name, smoothing):
    config = LossConfig(name=name, label_smoothing=smoothing, gamma=1.5)
    logits, weights = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    loss, shares = build_loss(config, weights), F.one_hot(labels, 3).double()
    torch.testing.assert_close(loss(logits, labels), loss(logits, shares))
    probs = logits.softmax(1)
    targets = shares * (1 - smoothing) + smoothing / 3
    expected = -(weights * targets * (1 - probs) ** (1.5 if name == "focal" else 0) * probs.log()).sum(1)
    torch.testing.assert_close(loss(logits, labels), expected)


def test_focal_loss_without_gamma_is_cross_entropy():
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 2, 1, 1])
    focal = build_loss(LossConfig(name="focal", gamma=0.0))
    torch.testing.assert_close(focal(logits, labels), build_loss(LossConfig())(logits, labels))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_what_is_certain_has_a_gradient(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    build_loss(LossConfig(name="focal", gamma=gamma))(logits, torch.tensor([0, 0])).sum().backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[1].abs().min() > 0.5
