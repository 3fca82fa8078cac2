"""A run folder that version 0.1.0 left, preempted, is evaluated, asked and resumed by this version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ranks import Ranks, read_json

GOLDEN = Path(__file__).parent.parent / "golden"
FINISHED = GOLDEN / "run_0.1.0_finished_metrics.json"
"""The metrics.json of the same run, never stopped."""
NUM_STEPS = 145


@pytest.fixture
def old_run(ranks: Ranks) -> Path:
    """A copy in a folder of its own: what is read there must not need the name that it had."""
    shutil.copytree(GOLDEN / "run_0.1.0", ranks.folder / "old")
    return ranks.folder / "old"


def test_an_old_run_is_evaluated(ranks: Ranks, old_run: Path) -> None:
    ranks.run("eval", "old", "--split", "val", "--json", "val.json")
    found = json.loads((ranks.folder / "val.json").read_text())
    assert found["count"] == 6
    assert found["loss"] == pytest.approx(1.1982, abs=1e-3), "the loss of its best weights in log.txt"


def test_an_old_run_predicts(ranks: Ranks, old_run: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(ranks.folder / "black.png")
    output = ranks.run("predict", "old", "black.png")
    assert "black.png" in output and "class" in output


@pytest.mark.parametrize("in_words", [False, True])
def test_an_old_run_is_resumed_to_the_metrics_of_one_never_stopped(ranks: Ranks, old_run: Path, in_words: bool) -> None:
    """With its own config.yaml, and with the command that began it."""
    words = read_json(old_run / "env.json")["command"][2:] if in_words else ["-c", "old/config.yaml"]
    output = ranks.run("train", *words, "run.dir=old")
    status = read_json(old_run / "status.json")
    assert (status["state"], status["step"]) == ("finished", NUM_STEPS), output
    found, expected = read_json(old_run / "metrics.json"), read_json(FINISHED)
    for split in ("val", "test"):
        numbers = {name: value for name, value in expected[split].items() if isinstance(value, int | float)}
        assert {name: found[split][name] for name in numbers} == pytest.approx(numbers, abs=1e-3)
    steps = [int(line.split(",")[1]) for line in (old_run / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(steps) and steps[0] == 5, "the rows from before it was stopped are kept"
