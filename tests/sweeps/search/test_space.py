"""A space is read as it was meant, and a mistake in it is answered with its place and what to type."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcls.errors import UsageError
from distcls.sweeps.search.space import Dimension, read_space


def space(*words: str, text: str | None = None):
    file = None
    if text is not None:
        file = Path("space.yaml")
        file.write_text(text, encoding="utf-8")
    return read_space(file, words)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optim.lr=1e-4..1e-2@log", {"low": 1e-4, "high": 1e-2, "log": True, "is_whole": False}),
        ("model.args.width=4..64", {"low": 4, "high": 64, "step": 1, "is_whole": True}),
        ("model.args.width=4..64@step=4", {"step": 4, "is_whole": True}),
        ("model.args.width=4..64@log", {"log": True, "step": None, "is_whole": True}),
        ("augment.mixup=0..1", {"low": 0, "high": 1, "step": None, "is_whole": False}),
        ("augment.hue=-0.5..0.5", {"low": -0.5, "high": 0.5}),
        ("augment.mixup=0,0.2", {"choices": ("0", "0.2")}),
        ("model.args.channels=[32,64],[64,128]", {"choices": ("[32, 64]", "[64, 128]")}),
        ("augment.flip=true,alternating", {"choices": ("true", "alternating")}),
    ],
)
def test_lists_and_ranges(word: str, expected: dict) -> None:
    found, fixed = space(word)
    (dimension,) = found.dimensions
    assert {key: getattr(dimension, key) for key in expected} == expected and fixed == []
    described = dimension.described()
    text = described if isinstance(described, str) else f"[{', '.join(described)}]"
    again, _ = space(text=f"{dimension.name}: {text}")
    assert again.described() == found.described(), "it can be written down and read again"


@pytest.mark.parametrize(
    "word",
    [
        "train.num_epochs=5",
        "run.trackers=[tensorboard,wandb]",
        "data.root=../photos",
        'data.root="a,b"',
        "model.args={hidden: 8, dropout: 0.1}",
        "train.eval_every=5 steps",
    ],
)
def test_other_settings_are_shared_by_all_trials(word: str) -> None:
    found, fixed = space("optim.lr=0.1,0.2", word)
    assert fixed == [word] and [one.name for one in found.dimensions] == ["optim.lr"]


def test_a_file_with_variants() -> None:
    found, _ = space(
        text="""
optim: {lr: 1e-4..1e-2@log}
model.args.width: [8, 16]
variants:
  baseline: {}
  dropout: {model.args.dropout: 0.3}
  resnet: {config: resnet.yaml, model: {name: small_resnet, args: {widths: [8, 16]}}, augment: none}
"""
    )
    assert [one.name for one in found.dimensions] == ["optim.lr", "model.args.width", "variant"]
    assert found.dimensions[2].choices == ("baseline", "dropout", "resnet")
    point = {"optim.lr": 0.002, "model.args.width": "8", "variant": "resnet"}
    assert found.settings(point) == [
        *("model.name=small_resnet", 'model.args={"widths": [8, 16]}', "augment=none"),
        *("optim.lr=0.002", "model.args.width=8"),
    ]
    assert found.config_file(point) == Path("resnet.yaml") and found.config_file({"variant": "dropout"}) is None
    assert found.settings({"variant": "baseline"}) == []


def test_a_grid_has_all_combinations() -> None:
    found, _ = space("augment.mixup=0,0.2", "model.args.width=8..16@step=4")
    points = list(found.grid())
    assert len(points) == 6 and points[1] == {"augment.mixup": "0", "model.args.width": 12}
    assert list(space("augment.mixup=0..1@step=0.5")[0].grid()) == [{"augment.mixup": value} for value in (0, 0.5, 1)]

    decimals = space("model.args.dropout=0..0.3@step=0.1", "optim.lr=-0.3..0.3@step=0.1")[0].dimensions
    assert [one.listed() for one in decimals] == [[0, 0.1, 0.2, 0.3], [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]], "as typed"


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        ([], None, "needs something to search: a list such as augment.mixup=0,0.2, a range"),
        (["train.num_epochs=3"], None, "needs something to search"),
        (["optim.lr=1e-2..1e-4"], None, "optim.lr=1e-2..1e-4: the range is empty, because 1e-2 is not below 1e-4"),
        (["optim.lr=0..1@log"], None, "must begin above 0, not at 0"),
        (["optim.lr=1..2@linear"], None, "is no range: write LOW..HIGH, LOW..HIGH@log or LOW..HIGH@step=STEP"),
        (["optim.lr=1..2@step=3"], None, "the step must be above 0, and at most 1, not 3"),
        (["optim.lr=1,1"], None, "a value is listed twice"),
        (["optim.lr=1,2", "optim.lr=3,4"], None, "optim.lr is searched already, in optim.lr=1,2"),
        (["optim.lr=1,2", "optim.lr=3"], None, "optim.lr=3: optim.lr is searched, optim.lr=1,2: leave one"),
        (["run.dir=a,b"], None, "run.dir cannot be searched: the sweep sets it"),
        ([], "optim.lr: 0.1", "space.yaml:1: optim.lr must be a list of values, such as [0, 0.2], or a range"),
        ([], "variants: [a]", "space.yaml:1: variants must be names with settings"),
        ([], "variants: {a/b: {}}", "a variant's name is that of a folder"),
        ([], "variants:\n  a: 3", "space.yaml:2: variant a must be settings"),
    ],
)
def test_mistakes(words: list[str], text: str | None, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        space(*words, text=text)
    assert message in str(raised.value)


def test_a_grid_of_a_range_says_what_to_write() -> None:
    found, _ = space("optim.lr=1e-4..1e-2@log")
    with pytest.raises(UsageError, match=r"Write optim.lr=0.0001,0.01, add @step=STEP, or search it with --search"):
        list(found.grid())


def test_a_dimension_is_described_as_a_file_has_it() -> None:
    assert Dimension("a", "", low=4, high=64, step=4, is_whole=True).described() == "4..64@step=4"
    assert Dimension("a", "", low=1e-4, high=0.5, log=True).described() == "0.0001..0.5@log"
