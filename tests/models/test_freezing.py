"""Parts that are frozen until some step: which parameters, for how long, and what would do nothing."""

from __future__ import annotations

import pytest
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.models.freezing import frozen_at, frozen_until, thaw_steps
from distcls.plan.batches import BatchPlan

PLAN = BatchPlan(num_images=100, global_batch_size=8, micro_batch_size=8, total_steps=40, seed=0)


def thawed(**settings) -> dict[str, int]:
    """The step from which each parameter of a small network is trained, where that is not the first."""
    config = ModelConfig(args={"hidden": 8}, **settings)
    return thaw_steps(frozen_until(config, build_model(config, 3, 8), 3), PLAN)


def test_a_duration_is_for_all_but_the_head():
    found = thawed(freeze_until="1 epoch")
    assert found["blocks.0.0.weight"] == found["hidden.bias"] == 13  # 100 / 8, rounded up
    assert len(found) == 8 and not any(name.startswith("head") for name in found)
    assert frozen_at(0, found) == frozen_at(12, found) == found.keys()
    assert frozen_at(13, found) == frozenset()


def test_parts_are_thawed_one_after_the_other_and_the_longest_name_counts():
    found = thawed(freeze_until={"blocks.1": "3 steps", "blocks": "50%"})
    assert {name: step for name, step in found.items() if name.endswith("0.weight")} == {
        "blocks.0.0.weight": 20,
        "blocks.1.0.weight": 3,
    }
    assert frozen_at(3, found) == {"blocks.0.0.weight", "blocks.0.1.weight", "blocks.0.1.bias"}


def test_what_is_never_trained_is_never_thawed():
    found = thawed(freeze=["blocks.0"], freeze_until="5")
    assert set(found) == {"blocks.1.0.weight", "blocks.1.1.weight", "blocks.1.1.bias", "hidden.weight", "hidden.bias"}


def test_nothing_is_frozen_unless_asked_for():
    assert thawed() == {} and frozen_at(0, {}) == frozenset()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_until": {"block": "1"}}, "model.freeze_until: no parameter name begins with 'block'. Did you mean"),
        (
            {"freeze_until": {"blocks.0": "1"}, "freeze": ["blocks"]},
            "model.freeze_until has no effect on blocks.0: model.freeze=.'blocks'. already freezes it",
        ),
        ({"freeze_until": "1", "freeze": ["blocks", "hidden"]}, "model.freeze_until has no effect on this model"),
        ({"freeze_until": "1", "freeze": ["head"]}, "model.freeze_until=1 leaves nothing to train at first"),
        (
            {"freeze_until": {"blocks": "1", "hidden": "1", "head": "2"}},
            "leaves nothing to train at first: leave out one of the parts",
        ),
    ],
)
def test_what_does_nothing_or_leaves_nothing_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        thawed(**settings)


def test_a_model_whose_head_is_not_found_says_how_to_name_the_parts():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    with pytest.raises(
        UsageError, match=r"has 3 outputs, one per class. Name the parts .*freeze_until=\{backbone: 5\}"
    ):
        frozen_until(ModelConfig(freeze_until="5"), model, 3)
