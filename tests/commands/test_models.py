"""`distcls models` lists names that can be typed, quickly, and never wider than the terminal."""

from __future__ import annotations

import csv
import io
import json

import pytest
import timm

from distcls.cli import main
from distcls.models.catalogue import RECOMMENDED, find_models


def output(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> tuple[str, str]:
    """What `distcls models` prints to stdout and stderr."""
    assert main(["models", *words]) == expect
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models of timm that were built."""
    names, create_model = [], timm.create_model

    def create(name: str, **arguments):
        names.append(name)
        return create_model(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create)
    return names


def test_without_a_pattern_it_shows_a_few_and_how_many_there_are(capsys, built):
    out, _ = output(capsys)
    lines = out.splitlines()
    assert lines[0].split() == ["model.name", "params", "GFLOPs", "pixels", "weights"]
    table = {line.split()[0]: line.split()[1:] for line in lines[1 : lines.index("")]}
    assert table["cnn2"] == ["0.545", "M", "0.012", "32", "none"]
    assert table["torchvision/resnet18"][:4] == ["11.7", "M", "3.63", "224"]
    assert set(built) == {name.removeprefix("timm/") for name in RECOMMENDED if name.startswith("timm/")}
    assert f"{len(timm.list_models()):,} from timm" in out and "1 multiply-add = 2 FLOPs" in out
    assert max(map(len, lines)) <= 80


def test_a_pattern_shows_what_matches(capsys, built):
    out, err = output(capsys, "torchvision/resnet*")
    assert [line.split()[0] for line in out.splitlines()[1:6]] == find_models("torchvision/resnet*")
    assert (err, built) == ("", [])


def test_no_more_are_built_than_are_shown(capsys, built):
    out, err = output(capsys, "timm/resnet*", "--limit", "2", "--format", "csv")
    assert len(built) == 2 and len(out.splitlines()) == 3
    number = len(find_models("timm/resnet*"))
    assert err == f"{number - 2} more match 'timm/resnet*': narrow it down, or show all with --limit {number}\n"


def test_rows_for_programs_have_whole_numbers(capsys):
    expected = {"name": "timm/resnet18", "num_parameters": 11_689_512, "flops": 3_628_146_688, "image_size": 224}
    line = json.loads(output(capsys, "timm/resnet18", "--limit", "1", "--format", "jsonl")[0])
    row = next(csv.DictReader(io.StringIO(output(capsys, "timm/resnet18", "--limit", "1", "--format", "csv")[0])))
    assert {name: line[name] for name in expected} == expected
    assert row == {name: str(value) for name, value in line.items()} and line["num_classes"] == 1000


def test_nothing_that_matches_is_an_error_with_a_hint(capsys):
    out, err = output(capsys, "resnte18", expect=2)
    assert out == "" and "no model's name matches 'resnte18'. Did you mean 'torchvision/resnet18'?" in err
    assert "--limit 0: give the number of models" in output(capsys, "--limit", "0", expect=2)[1]


def test_without_a_pattern_the_limit_does_not_matter(capsys):
    out, err = output(capsys, "--limit", "1", "--format", "csv")
    assert len(out.splitlines()) == 1 + len(RECOMMENDED) and err == ""
