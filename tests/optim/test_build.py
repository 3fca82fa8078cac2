"""Settings reach optimizers, several of them are one, and wrong names are errors."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
from torch import nn

from distcls.config.settings import OptimConfig, ParamGroupConfig
from distcls.errors import UsageError
from distcls.optim.build import build_optimizer, momenta_per_weight
from distcls.optim.groups import group_parameters


def make_model() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.head = nn.Linear(4, 2)
    return model


def build(config, model=None) -> torch.optim.Optimizer:
    return build_optimizer(group_parameters(config, model or make_model()))


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_settings_reach_the_optimizer(name, kind):
    config = OptimConfig(name=name, lr=0.3, momentum=0.7, nesterov=name == "sgd", betas=[0.8, 0.95], eps=1e-3)
    optimizer = build(config)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.3 and group["fused"]
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.7, True)
    else:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-3)


def test_the_fused_kernel_can_be_switched_off():
    assert not build(OptimConfig(fused=False)).param_groups[0]["fused"]


def test_an_unknown_optimizer_names_the_nearest_and_the_known_ones():
    with pytest.raises(UsageError, match=r"optim.name=adamm: .*Did you mean 'adam.*sgd, adam, adamw, muon, and my_pkg"):
        build(OptimConfig(name="adamm"))


def test_your_own_optimizer_gets_groups_and_rate():
    optimizer = build(OptimConfig(name="torch.optim:RMSprop", lr=0.5, weight_decay=0.1))
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert [(g["lr"], g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 1, 0.1), (0.5, 1, 0)]


def test_arguments_reach_your_own_optimizer():
    optimizer = build(OptimConfig(name="torch.optim:RMSprop", args={"alpha": 0.5}))
    assert optimizer.param_groups[0]["alpha"] == 0.5
    with pytest.raises(UsageError, match=r"optim.name=torch.optim:RMSprop cannot be called with (.|\n)*beta=0.5"):
        build(OptimConfig(name="torch.optim:RMSprop", args={"beta": 0.5}))


def merged(params, lr):
    """An optimizer of somebody's who puts all parameters into one group."""
    return torch.optim.SGD([parameter for group in params for parameter in group["params"]], lr=lr)


def test_your_own_optimizer_must_keep_the_groups(monkeypatch):
    import ledger

    monkeypatch.setattr(ledger, "merged", merged, raising=False)
    with pytest.raises(UsageError, match="has 1 parameter groups, but was given 2"):
        build(OptimConfig(name="ledger:merged"))


# Several kinds -------------------------------------------------------------------------------------

MIXED = OptimConfig(
    name="adamw",
    lr=0.01,
    groups=[
        ParamGroupConfig(match="^backbone", name="sgd", lr=0.1, momentum=0.7),
        ParamGroupConfig(match="head.bias", name="torch.optim:RMSprop", args={"alpha": 0.5}),
    ],
)


def step(optimizer, model, seed):
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)
    optimizer.step()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_one_step_of_several_kinds_is_a_step_of_each():
    torch.manual_seed(0)
    model = make_model()
    alone = copy.deepcopy(model)
    optimizer = build(MIXED, model)
    backbone, head = alone.backbone, alone.head
    parts = [
        torch.optim.SGD(
            [
                {"params": [backbone[0].weight], "weight_decay": 0.01},
                {"params": [p for p in backbone.parameters() if p.ndim == 1]},
            ],
            lr=0.1, momentum=0.7, fused=True,
        ),
        torch.optim.AdamW([head.weight], lr=0.01, weight_decay=0.01, fused=True),
        torch.optim.RMSprop([head.bias], lr=0.01, alpha=0.5),
    ]  # fmt: skip
    for seed in range(3):
        step(optimizer, model, seed)
        for part in parts:
            step(part, alone, seed) if part is parts[0] else part.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
    assert [sorted(group["names"]) for group in optimizer.param_groups] == [
        ["backbone.0.weight"], ["backbone.0.bias", "backbone.1.bias", "backbone.1.weight"],
        ["head.weight"], ["head.bias"],
    ]  # fmt: skip


def test_several_kinds_are_restored_to_the_bit():
    torch.manual_seed(0)
    model = make_model()
    optimizer = build(MIXED, model)
    step(optimizer, model, 0)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    restored = copy.deepcopy(model)
    again = build(MIXED, restored)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for one, own in ((optimizer, model), (again, restored)):
        one.param_groups[0]["lr"] = 0.05  # a rate that is set on the whole reaches the part
        step(one, own, 1)
        step(one, own, 2)
    assert all(torch.equal(a, weights(restored)[name]) for name, a in weights(model).items())
    assert len(again.state_dict()["state"]) == 6


def test_a_rate_that_is_set_reaches_the_part():
    torch.manual_seed(0)
    model = make_model()
    before = weights(model)
    optimizer = build(MIXED, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(optimizer, model, 0)
    assert all(torch.equal(a, before[name]) for name, a in weights(model).items())


def test_a_loss_scale_reaches_every_part():
    config = dataclasses.replace(MIXED, groups=MIXED.groups[:1])
    model = make_model()
    optimizer = build(config, model)
    assert optimizer._step_supports_amp_scaling and not build(MIXED)._step_supports_amp_scaling
    before = weights(model)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    step(optimizer, model, 0)
    assert all(torch.equal(a, before[name]) for name, a in weights(model).items())


def test_momenta_are_counted_for_the_kind_that_keeps_most():
    assert momenta_per_weight(OptimConfig(name="sgd")) == 1
    assert momenta_per_weight(OptimConfig(name="sgd", groups=[ParamGroupConfig(match="x", name="adam")])) == 2
