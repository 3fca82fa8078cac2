"""Which parameters are decayed, which have settings of their own, and which patterns are wrong."""

from __future__ import annotations

import pytest
from torch import nn

from distcls.config.settings import OptimConfig, ParamGroupConfig
from distcls.errors import UsageError
from distcls.optim.groups import group_parameters, lrs_at
from distcls.plan.batches import BatchPlan

PLAN = BatchPlan(num_images=64, global_batch_size=8, micro_batch_size=4, total_steps=100, seed=0)


def make_model() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.head = nn.Linear(4, 2)
    return model


def groups_of(**settings) -> dict[tuple[float, float], list[str]]:
    """(lr_scale, weight_decay) -> names."""
    groups = group_parameters(OptimConfig(weight_decay=0.1, **settings), make_model())
    return {(group.lr_scale, group.weight_decay): group.options()["names"] for group in groups}


def test_norms_and_biases_are_not_decayed():
    assert groups_of() == {
        (1.0, 0.1): ["backbone.0.weight", "head.weight"],
        (1.0, 0.0): ["backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "head.bias"],
    }


def test_unless_that_is_asked_for():
    assert list(groups_of(decay_norms_and_biases=True)) == [(1.0, 0.1)]


def test_a_pattern_gives_parameters_their_own_rate_and_decay():
    found = groups_of(groups=[ParamGroupConfig(match="^backbone", lr_scale=0.1)])
    assert found[(0.1, 0.1)] == ["backbone.0.weight"]
    assert found[(0.1, 0.0)] == ["backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]
    assert found[(1.0, 0.1)] == ["head.weight"]
    found = groups_of(groups=[ParamGroupConfig(match=r"bias$", weight_decay=0.5)])
    assert found[(1.0, 0.5)] == ["backbone.0.bias", "backbone.1.bias", "head.bias"]


def test_the_first_match_wins():
    patterns = [ParamGroupConfig(match="head", lr_scale=10.0), ParamGroupConfig(match="weight", lr_scale=0.5)]
    found = groups_of(groups=patterns)
    assert found[(10.0, 0.1)] == ["head.weight"]
    assert found[(0.5, 0.1)] == ["backbone.0.weight"]


def test_every_trainable_parameter_is_in_one_group():
    model = make_model()
    model.backbone.requires_grad_(False)
    groups = group_parameters(OptimConfig(), model)
    assert sorted(name for group in groups for name, _ in group.named) == ["head.bias", "head.weight"]


def test_a_pattern_that_matches_nothing_is_an_error_that_names_parameters():
    with pytest.raises(UsageError, match=r"no parameter name matches 'haed'.*backbone.0.weight"):
        groups_of(groups=[ParamGroupConfig(match="haed")])


def test_a_group_of_frozen_parameters_is_an_error():
    model = make_model()
    model.backbone.requires_grad_(False)
    groups = [ParamGroupConfig(match="^backbone", lr_scale=0.1)]
    with pytest.raises(UsageError, match=r"'\^backbone' matches only frozen parameters.*model.freeze"):
        group_parameters(OptimConfig(groups=groups), model)
    assert group_parameters(OptimConfig(groups=[ParamGroupConfig(match="weight", lr_scale=0.1)]), model)


def test_a_group_that_earlier_ones_leave_nothing_is_an_error_that_names_them():
    groups = [ParamGroupConfig(match=match, lr_scale=0.1) for match in ("weight", "bias", "head")]
    with pytest.raises(
        UsageError, match=r"'head' matches, such as head.weight, are taken by the group 'weight' or 'bias', which"
    ):
        groups_of(groups=groups)
    assert groups_of(groups=[groups[-1], *groups[:-1]])


def test_a_group_without_a_pattern_is_an_error():
    with pytest.raises(UsageError, match=r"empty match, which would take every parameter.*such as match: head"):
        groups_of(groups=[ParamGroupConfig(lr_scale=0.1)])


def test_a_pattern_that_is_no_regular_expression_is_a_usage_error():
    with pytest.raises(UsageError, match="head\\("):
        groups_of(groups=[ParamGroupConfig(match="head(")])


def rates(config: OptimConfig, step: int) -> dict[str, float]:
    groups = group_parameters(config, make_model())
    lrs = lrs_at(step, groups, PLAN)
    return {name: lr for group, lr in zip(groups, lrs, strict=True) for name, _ in group.named}


def test_each_group_has_the_rate_and_schedule_that_it_asks_for():
    config = OptimConfig(
        lr=0.1,
        schedule="cosine",
        groups=[
            ParamGroupConfig(match="backbone.0", lr=0.4, schedule="constant"),
            ParamGroupConfig(match="backbone.1", schedule="step", milestones=["20 steps"], gamma=0.5),
            ParamGroupConfig(match="head.bias", lr_scale=0.1, warmup="80 steps"),
        ],
    )
    at_50 = rates(config, 50)
    assert at_50["backbone.0.weight"] == at_50["backbone.0.bias"] == 0.4
    assert at_50["backbone.1.weight"] == pytest.approx(0.05)
    assert at_50["head.weight"] == pytest.approx(0.05)  # half way down
    assert at_50["head.bias"] == pytest.approx(0.1 * 51 / 80 * 0.1)


def test_groups_of_one_kind_stand_together():
    config = OptimConfig(groups=[ParamGroupConfig(match="backbone.1", name="sgd")])
    kinds = [group.settings.name for group in group_parameters(config, make_model())]
    assert kinds == ["adamw", "adamw", "sgd"]


def test_a_group_of_another_kind_takes_no_arguments_of_the_main_one():
    config = OptimConfig(
        name="my:make", args={"power": 2}, nesterov=True, groups=[ParamGroupConfig(match="head", name="adamw")]
    )
    settings = [group.settings for group in group_parameters(config, make_model())]
    assert (settings[0].args, settings[-1].args, settings[-1].nesterov) == ({"power": 2}, {}, False)


def test_modules_beside_the_model_are_grouped_by_their_name():
    config = OptimConfig(groups=[ParamGroupConfig(match="^projector", lr=3.0)])
    groups = group_parameters(config, make_model(), {"projector": nn.Linear(2, 2)})
    found = {name: group.settings.lr for group in groups for name, _ in group.named}
    assert found["projector.weight"] == found["projector.bias"] == 3.0
    assert found["head.weight"] == config.lr


def test_layer_decay_multiplies_with_a_groups_own_scale_and_joins_any_optimizer():
    config = OptimConfig(
        lr=0.1,
        schedule="constant",
        layer_decay=0.5,
        groups=[ParamGroupConfig(match="bias", lr_scale=0.1), ParamGroupConfig(match="head", name="sgd", lr=1.0)],
    )
    groups = group_parameters(config, make_model(), {"projector": nn.Linear(2, 2)})
    assert [group.settings.name for group in groups][-1] == "sgd"
    lrs = lrs_at(0, groups, PLAN)
    rate = {name: lr for group, lr in zip(groups, lrs, strict=True) for name, _ in group.named}
    assert rate["backbone.0.weight"] == rate["backbone.1.weight"] == 0.1 * 0.5
    assert rate["backbone.0.bias"] == 0.1 * (0.1 * 0.5)
    assert rate["head.weight"] == 1.0
    assert rate["projector.weight"] == 0.1  # as new as the head
