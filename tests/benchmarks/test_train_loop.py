"""In a comparison, the sides alternate, and the side of distcls is the loop that users run."""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path

import pytest

from distcls.config.loading import load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    """Import a file of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def side(name: str, seen: list[str]):
    while True:
        seen.append(name)
        yield


def test_a_loop_of_its_own_takes_turns_with_the_other_sides(benchmark):
    seen: list[str] = []
    timings: dict = {}
    turns = benchmark("side_by_side").in_turns(
        timings, {"loop": None, "b": side("b", seen)}, turns=2, steps=2, lead_in=1
    )
    for _ in turns:
        seen.append("loop")
    assert seen == ["loop"] * 3 + ["b"] * 3 + ["loop"] * 3 + ["b"] * 3
    assert {name: (len(taken.wall), len(taken.cpu)) for name, taken in timings.items()} == {"loop": (2, 2), "b": (2, 2)}


def test_the_training_loop_itself_takes_turns(benchmark, tmp_path, capsys):
    config = load_config(None, ["data.name=digits", f"run.dir={tmp_path}", "run.device=cpu", "train.log_every=1"])
    turns, taken = itertools.repeat(None, 6), []
    benchmark("train_loop").run_in_turns(config, map(taken.append, turns))
    assert len(taken) == 6
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"]) == ("preempted", 6)
    assert "classes" not in capsys.readouterr().out  # its output is not among the results
