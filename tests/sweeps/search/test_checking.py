"""Every value is checked before the first trial, beside values that make sense with it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from sweeps_of_tests import read

from distcls.errors import UsageError
from distcls.sweeps.search.checking import check_values
from distcls.sweeps.search.plan import Limits


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["optim.lr=-1,0.1"], ["optim.lr=-1: optim.lr must be a number above 0, but -1 was given"]),
        (["optim.lr=-1..1"], ["must be a number above 0"]),
        (["augment.erase=0..2"], ["augment.erase=2: augment.erase must be a number at least 0 and at most 1"]),
        (["optim.lrr=1,2"], ["unknown setting optim.lrr: did you mean 'optim.lr'?"]),
        (["train.global_batch_size=0.5,8"], ["must be a whole number"]),
        (["loss.name=focal,cross_entropy", "optim.lr=a,0.1"], ["optim.lr must be a number above 0, but 'a'"]),
        (["optim.lr=-1,0.1", "augment.mixup=-1,0"], ["the space has 2 mistakes", "augment.mixup must be"]),
    ],
)
def test_a_wrong_value_is_named_with_its_range(make_plan, words: list[str], messages: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        check_values(make_plan(*words), read)
    for message in messages:
        assert message in str(raised.value)


def test_a_wrong_variant_is_named(make_plan) -> None:
    plan = make_plan(space="variants: {good: {}, bad: {model.nam: x}}")
    with pytest.raises(UsageError, match=r"variant bad: model.nam=x: unknown setting model.nam"):
        check_values(plan, read)


def test_values_that_need_others_are_right(make_plan) -> None:
    check_values(make_plan("loss.name=cross_entropy,focal", "loss.gamma=1,2"), read)
    check_values(make_plan("loss.gamma=1..3", "loss.name=focal,cross_entropy"), read)


@pytest.mark.parametrize(
    ("space", "seeds", "message"),
    [
        ("variants: {a: {}, b: {train.seed: 3}}", 2, "variant b sets train.seed=3, and --seeds sets it too"),
        ("variants: {a: {}, b: {config: b.yaml}}", 2, "variant b sets train.seed=4, and --seeds sets it too"),
        ("variants: {a: {}, b: {train.seed: 3}}", 1, None),
        ("variants: {a: {}, b: {train.seed: 0}}", 2, None),
        ("optim.lr: [0.1, 0.2]", 2, None),
    ],
)
def test_the_seed_of_a_variant_is_not_replaced(make_plan, space, seeds, message) -> None:
    plan = make_plan(space=space, num_seeds=seeds)
    Path("b.yaml").write_text("train: {seed: 4}\n")
    with nullcontext() if message is None else pytest.raises(UsageError, match=message):
        check_values(plan, read)


PHOTOS = ("data.root=photos", "data.name=folder")


@pytest.mark.parametrize(
    ("words", "space", "message"),
    [
        (["optim.lr=1,2", "preset=fast"], None, "the preset fast chooses one .* model.name=NAME or --preset none"),
        (["optim.lr=1,2", *PHOTOS], None, "the preset chooses one when a run starts"),
        (["preset=none,fast"], None, "the preset fast chooses one"),
        ([], "variants: {a: {}, b: {preset: fast}}", "variant b: --max-params and the other limits need"),
        (["optim.lr=1,2", "preset=fast", "model.name=torchvision/resnet18"], None, None),
        (["model.name=torchvision/resnet18,torchvision/resnet34", "preset=fast"], None, None),
        (["optim.lr=1,2", "preset=none", *PHOTOS], None, None),
        (["optim.lr=1,2"], None, None),
    ],
)
def test_a_limit_needs_a_network_that_is_known(make_plan, words, space, message) -> None:
    plan = make_plan(*words, space=space, limits=Limits(parameters=1000))
    with nullcontext() if message is None else pytest.raises(UsageError, match=message):
        check_values(plan, read)
    check_values(replace(plan, limits=Limits()), read)
