"""Which parameters are decayed, which have a rate of their own, and which words of the config are wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distcls.config.settings import OptimConfig, ParamGroupConfig
from distcls.errors import UsageError
from distcls.optim.build import build_optimizer, parameter_groups


def make_model() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.head = nn.Linear(4, 2)
    return model


def groups_of(**settings) -> dict[tuple[float, float], list[str]]:
    """(lr_scale, weight_decay) -> names."""
    groups = parameter_groups(OptimConfig(weight_decay=0.1, **settings), make_model())
    assert all(len(group["params"]) == len(group["names"]) for group in groups)
    return {(group["lr_scale"], group["weight_decay"]): group["names"] for group in groups}


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
    groups = parameter_groups(OptimConfig(), model)
    assert sorted(name for group in groups for name in group["names"]) == ["head.bias", "head.weight"]


def test_a_pattern_that_matches_nothing_is_an_error_that_names_parameters():
    with pytest.raises(UsageError, match=r"no parameter's name matches 'haed'.*backbone.0.weight"):
        groups_of(groups=[ParamGroupConfig(match="haed")])


def test_a_pattern_that_is_no_regular_expression_is_a_usage_error():
    with pytest.raises(UsageError, match="head\\("):
        groups_of(groups=[ParamGroupConfig(match="head(")])


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_settings_reach_the_optimizer(name, kind):
    config = OptimConfig(name=name, lr=0.3, momentum=0.7, nesterov=name == "sgd", betas=[0.8, 0.95], eps=1e-3)
    optimizer = build_optimizer(config, make_model())
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.3 and group["fused"]
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.7, True)
    else:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-3)


def test_the_fused_kernel_can_be_switched_off():
    assert not build_optimizer(OptimConfig(fused=False), make_model()).param_groups[0]["fused"]


def test_an_unknown_optimizer_names_the_nearest_and_the_known_ones():
    with pytest.raises(UsageError, match=r"optim.name=adamm: .*Did you mean 'adam.*sgd, adam, adamw, and my_pkg"):
        build_optimizer(OptimConfig(name="adamm"), make_model())


def test_your_own_optimizer_gets_groups_and_rate():
    optimizer = build_optimizer(OptimConfig(name="torch.optim:RMSprop", lr=0.5, weight_decay=0.1), make_model())
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert [(g["lr"], g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 1, 0.1), (0.5, 1, 0)]
