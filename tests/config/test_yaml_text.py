"""Configs are read as people mean them, and what is written is read back, here and by other tools."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
import yaml
from mistakes import message

from distcls.config.loading import load_config
from distcls.config.settings import Config
from distcls.config.yaml_text import given_as_yaml, quoted, read_override, to_yaml

EVERYTHING = [
    "data.name=folder",
    'data.root="/images/été: 1 #2"',
    "model.args={dropout: 0.2, text: '1e-3', tiny: 1e-30, flag: 'no', deep: [{a: null}]}",
    "optim.groups=[{match: '^head\\.', lr_scale: 10, weight_decay: 0}]",
    "optim.schedule=step",
    "optim.milestones=['50%', 100]",
    "train.num_steps=1000",
    "run.name='null'",
    "optim.lr=1e-5",
]


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "+1e-3", "1.0e-3"])
def test_numbers_with_exponents_are_numbers(text: str, write_config) -> None:
    assert load_config(None, [f"optim.lr={text}"]).optim.lr == 0.001
    assert load_config(write_config(f"optim: {{lr: {text}}}\n"), []).optim.lr == 0.001
    assert load_config(None, [f"model.args.p={text}"]).model.args == {"p": 0.001}


def test_whole_numbers_may_be_written_1e3() -> None:
    assert load_config(None, ["train.num_steps=1e3"]).train.num_steps == 1000
    assert load_config(None, ["train.num_steps=10_000"]).train.num_steps == 10_000


def test_text_that_yaml_would_take_for_something_else_stays_text() -> None:
    for name in ("007", "1e3", "2024-01-01", "12:30", "yes", "1.10"):
        assert load_config(None, [f"run.name={name}"]).run.name == name
    assert load_config(None, ["data.cache=0"]).data.cache == "0"


@pytest.mark.parametrize("override", ["lr", "=1", "optim.=1", ".lr=1", "optim..lr=1"])
def test_malformed_overrides(override: str) -> None:
    assert message(override) == f"{override}: write settings as key=value, such as optim.lr=0.001"


@pytest.mark.parametrize("override", ["model.init_from=", "model.init_from= "])
def test_an_override_without_a_value_is_refused(override: str) -> None:
    """A shell makes it of model.init_from=$BEST."""
    assert message(override) == (
        "model.init_from= has no value: a shell variable may be unset. Write model.init_from=VALUE, or "
        "model.init_from=null to unset it"
    )
    assert load_config(None, ["model.init_from=null"]).model.init_from is None


@pytest.mark.parametrize(
    "override", ["run.name=@home", "model.freeze=[a", "run.name=*x", "run.name=!tag x", "optim.lr=!!int x"]
)
def test_overrides_that_are_not_yaml(override: str) -> None:
    assert message(override).startswith(f"{override}: ")


@pytest.mark.parametrize("text", ["runs/a #2", "a: b", "[a", "null", "1e3", " a", "it's", '"a"', "a\nb", "", "*x"])
def test_any_text_can_be_the_value_of_an_override(text: str) -> None:
    assert read_override(f"run.dir={quoted(text)}")[1].value == text


@pytest.mark.parametrize("text", ["runs/a-2/audit.csv", "two words", "été", "C:\\a"])
def test_a_text_is_quoted_only_if_it_must_be(text: str) -> None:
    assert quoted(text) == text and read_override(f"run.dir={text}")[1].value == text


@pytest.mark.parametrize("text", [r"[^/]+/(\d+)_", r"(\d+) #x", r"(a): (b)", r"{(\d)}", "patient", "2024"])
def test_a_regular_expression_for_groups_needs_no_quotes(text: str) -> None:
    assert load_config(None, ["data.name=csv", "data.root=a", f"data.groups={text}"]).data.groups == text
    assert quoted(text, "data.groups") == text
    assert read_override(f"data.groups='{text}'")[1].value == text


@pytest.mark.parametrize("text", ["null", "~", '"(a)"', "'(a)"])
def test_an_expression_is_quoted_if_it_must_be(text: str) -> None:
    assert read_override(f"data.groups={quoted(text, 'data.groups')}")[1].value == text
    assert read_override("data.groups=null")[1].value is None


def test_a_name_that_is_not_utf8_is_refused_with_a_way_out() -> None:
    name = os.fsdecode(b"/images/caf\xe9")
    found = message(f'data.root="{name}"')
    assert "caf?" in found and "ln -s OLD NEW" in found and found.isprintable()


def test_duplicate_keys(write_config) -> None:
    path = write_config("optim:\n  lr: 1\n  name: sgd\n  lr: 2\n")
    assert message(path=path) == "x.yaml:4: 'lr' is given twice, first at x.yaml:2: remove one of them"
    assert message("optim.groups=[{match: a, match: b}]").endswith("'match' is given twice: remove one of them")


def test_files_that_are_no_config(write_config) -> None:
    assert re.match(r"x\.yaml:2: not valid YAML: ", message(path=write_config("optim:\n\tlr: 1\n")))
    assert message(path=write_config("- 1\n- 2\n")).startswith("x.yaml:1: a config must have sections")
    assert message(path=write_config("optim: {}\n---\ntrain: {}\n")).startswith("x.yaml:2: not valid YAML: ")
    Path("x.yaml").write_bytes(b"run: {name: \xff}\n")
    assert "UTF-8" in message(path=Path("x.yaml"))
    assert message(path=Path("y.yaml")).startswith("y.yaml: cannot read the config (No such file or directory)")
    assert message(path=Path("y.yaml")).endswith("did you mean x.yaml?")


def test_saving_loses_nothing(write_config) -> None:
    config = load_config(None, EVERYTHING)
    assert load_config(write_config(to_yaml(config)), []) == config


def test_other_yaml_readers_read_the_same() -> None:
    config = load_config(None, EVERYTHING)
    assert yaml.safe_load(to_yaml(config)) == dataclasses.asdict(config)


def test_yaml_is_a_block_for_each_section_and_a_line_for_each_setting() -> None:
    lines = to_yaml(Config()).splitlines()
    assert "optim:" in lines and "  lr: 0.002" in lines and "  betas: [0.9, 0.999]" in lines
    assert "" in lines and "    mean: [0.485, 0.456, 0.406]" in lines


BOMB = ["a: &a [x, x, x, x, x, x, x, x, x]"] + [
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "model: {args: &a {again: *a}}\n",
            "x.yaml:1: the config has more than 30 levels, or an alias that contains itself",
        ),
        ("data: {args: &a {again: [*a, *a]}}\n", "or an alias that contains itself: write it out"),
        (f"model: {{args: {{deep: {'[' * 40}{']' * 40}}}}}\n", "values are nested more than 30 levels deep"),
        (f"model: {{args: {{deep: {'[' * 5000}{']' * 5000}}}}}\n", "nest"),  # libyaml itself may refuse it
        (f"data:\n  args: {{bomb: {{{', '.join(BOMB)}}}}}\n", "more than 100,000 values"),
        ("#" * 1_000_001, "a config has at most 1,000,000 bytes"),
    ],
    ids=["self", "self twice", "deep", "very deep", "bomb", "large"],
)
def test_what_would_take_forever_to_read_is_refused(text: str, expected: str, write_config) -> None:
    assert expected in message(path=write_config(text))


def test_only_what_was_given_is_written(write_config) -> None:
    text = "augment:\n  flip: true\n  normalize:\n    std: [1, 1, 1]\n\nmodel:\n  args: {hidden: 8}\n"
    config = load_config(write_config(text), ["train.early_stopping=null"])
    written = given_as_yaml(config)
    assert written == text.replace("1, 1, 1", "1.0, 1.0, 1.0") + "\ntrain:\n  early_stopping: null\n"
    assert load_config(write_config(written)) == config
    assert given_as_yaml(config.noting([])) == ""
