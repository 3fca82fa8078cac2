"""Only the images that the proxy finds hardest train the network; the proxy trains on them in some steps."""

from __future__ import annotations

import dataclasses
import re
from contextlib import nullcontext

import pytest
import torch
from small_tasks import PLAN, make_task
from torch import nn

from distcls.data.loading.micro_batch import MicroBatch
from distcls.errors import UsageError
from distcls.training.objectives.objective import Network
from distcls.training.objectives.proxy_selection import ProxySelection

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
HARD = [1, 3, 4, 6]


class Table(nn.Module):
    """Answers with rows of a table, in the order of the images' first pixels, and remembers which it was asked for."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.asked: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked = images[:, 0, 0, 0].tolist()
        return self.logits[torch.tensor(self.asked, dtype=torch.long)]


def selection(**args) -> tuple[ProxySelection, Network, Table]:
    task = make_task(dataclasses.replace(PLAN, micro_batch_size=8))
    task.view = lambda micro_batch, step: (micro_batch.pixels, micro_batch.labels)  # type: ignore[method-assign]
    objective = ProxySelection(task, "cnn2", **args)
    right = torch.tensor([-1.0 if place in HARD else 1.0 for place in range(8)])
    objective.proxy = Table(nn.functional.one_hot(LABELS, 3) * right[:, None])
    table = Table(torch.zeros(8, 3))
    return objective, Network(table, table, nullcontext), table


def batch() -> MicroBatch:
    pixels = torch.arange(8).view(8, 1, 1, 1).expand(8, 3, 2, 2)
    return MicroBatch(0, pixels, LABELS, {})


def test_the_hardest_images_train_the_network_in_their_order():
    objective, network, table = selection(share=0.5)
    terms = objective(network.begin(), batch(), step=1)
    assert table.asked == HARD
    assert terms.losses.nonzero().flatten().tolist() == HARD
    terms.losses.sum().backward()
    assert table.logits.grad is not None and table.logits.grad.any(1).nonzero().flatten().tolist() == HARD
    assert objective.proxy.logits.grad is None, "the proxy trains in steps 0, 4, 8 …"
    assert terms.sums["proxy_accuracy"] == 4 and terms.sums["accuracy"] == 8 * 2 / 4  # two of the four have class 0


def test_the_proxy_trains_on_them_too_without_a_part_in_the_loss():
    objective, network, _ = selection(share=0.5)
    reported = objective(network.begin(), batch(), step=1).losses
    terms = objective(network.begin(), batch(), step=4)
    assert torch.equal(terms.losses, reported)
    terms.losses.sum().backward()
    assert objective.proxy.logits.grad.any(1).nonzero().flatten().tolist() == HARD


def test_an_image_that_has_gone_bad_is_not_among_the_hardest():
    objective, network, table = selection(share=0.5)
    objective(network.begin(), dataclasses.replace(batch(), went_bad={3: "cat.jpg: gone"}), step=1)
    assert 3 not in table.asked


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"share": 0}, "share=0: give a share of each micro-batch's 8 images, above 0"),
        ({"share": 0.05}, "that is at least one image"),
        ({"share": 1.5}, "up to 1"),
        ({"share": "half"}, "share=half"),
        ({"train_every": 0}, "train_every=0: give a whole number of steps"),
        ({"train_every": 2.5}, "train_every=2.5"),
        ({"args": 3}, "give the name of a small network and its arguments"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args, message):
    with pytest.raises(UsageError, match=message):
        selection(**args)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("cnn9", {}, "objective.args.model=cnn9: there is no such model"),
        ("cnn2", {"wdth": 3}, "objective.args.args={'wdth': 3} do not fit objective.args.model=cnn2"),
        ("own_objectives:counting", {}, "changes its buffer 'passes' in each pass"),
        ("airbench", {"widths": [8, 8]}, "has a first layer that is computed from the images"),
    ],
)
def test_a_network_that_cannot_be_a_proxy_is_refused(model, args, message):
    task = make_task(PLAN)
    task.augment.image_size = 8
    with pytest.raises(UsageError, match=re.escape(message)):
        ProxySelection(task, model, args).modules(nn.Linear(1, 1))
