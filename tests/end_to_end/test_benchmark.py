"""`distcls benchmark` as people use it: speed, a trace, the micro-batch that fits, and a learning rate."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from PIL import Image

SHORT = ["--steps", "6", "train.num_threads=1"]

OWN = """
from distcls.training.objectives.supervised import Supervised

class Mine(Supervised):
    calls = 0

    def __call__(self, *given):
        Mine.calls += 1
        if Mine.calls == 4:
            print("mine was called")
            open("called.txt", "w").close()
        return super().__call__(*given)
"""


@pytest.mark.parametrize("world_size", [1, 2])
def test_it_measures_the_steps_of_a_run_and_leaves_nothing_behind(ranks, world_size):
    told = ranks.run("benchmark", *SHORT, "--json", "speed.json", "--profile", "trace.json", world_size=world_size)
    speed = json.loads((ranks.folder / "speed.json").read_text())
    assert (speed["model"], speed["num_parameters"], speed["image_size"]) == ("cnn2", 53_674, 8)
    assert (speed["world_size"], speed["global_batch_size"], speed["micro_batch_size"]) == (
        world_size,
        64,
        64 // world_size,
    )
    assert speed["num_steps"] == 6 and speed["precision"] == "float32" and speed["num_threads"] == 1
    assert speed["images_per_second"] == pytest.approx(64 / speed["seconds_per_step"])
    assert 0 < speed["share_of_matrix_rate"] < 1 and speed["flops"] == 768_512
    parts = speed["profile"]
    expected = {"data", "augment", "forward", "backward", "optimizer", "other"} | (
        {"exchange"} if world_size > 1 else set()
    )
    assert set(parts) == expected and all(seconds >= 0 for seconds in parts.values())
    assert parts["forward"] > parts["data"] and parts["backward"] > parts["optimizer"]
    names = {event.get("name") for event in json.loads((ranks.folder / "trace.json").read_text())["traceEvents"]}
    assert {"forward", "backward", "optimizer", "aten::convolution"} <= names
    assert "images/s" in told and "matrix rate" in told and "ui.perfetto.dev" in told
    assert not (ranks.folder / "runs").exists() and not list(Path(tempfile.gettempdir()).glob("distcls-benchmark-*"))


def test_an_objective_of_ones_own_is_measured_too(ranks, monkeypatch):
    (ranks.folder / "mine.py").write_text(OWN)
    told = ranks.run("benchmark", *SHORT, "objective.name=mine:Mine")
    assert "images/s" in told and (ranks.folder / "called.txt").exists()


def test_steps_of_the_whole_network_are_measured_and_slow_ones_only_for_a_while(ranks):
    """A preset freezes all but the head at first."""
    settings = ["model.freeze_until=40%", "--seconds", "0.001", "--json", "speed.json"]
    ranks.run("benchmark", "--steps", "500", "train.num_threads=1", *settings)
    speed = json.loads((ranks.folder / "speed.json").read_text())
    assert speed["num_steps"] < 10
    assert speed["profile"]["backward"] > speed["profile"]["forward"] / 2


def test_a_config_that_cannot_train_is_refused_as_train_would(ranks):
    assert "there is no such loss" in ranks.run("benchmark", *SHORT, "loss.name=focl", expect=2)
    assert "give a number above 0" in ranks.run("benchmark", "--steps", "0", expect=2)
    assert "no folder nowhere" in ranks.run("benchmark", "--json", "nowhere/a.json", expect=66)
    assert "leave out --find" in ranks.run("benchmark", "--find", "lr", "--profile", "a.json", expect=2)


def test_find_lr_suggests_a_rate_that_trains(ranks):
    told = ranks.run("benchmark", "--find", "lr", "--plot", "a.png", "--json", "lr.json", "train.num_threads=1")
    found = json.loads((ranks.folder / "lr.json").read_text())
    assert 1e-4 < found["suggestion"] < 1e-1, "cnn2 on digits, with AdamW"
    assert f"suggestion: optim.lr={found['suggestion']:.1e}" in told
    assert found["lrs"][0] == pytest.approx(1e-7) and len(found["lrs"]) == len(found["losses"]) >= 20
    assert Image.open(ranks.folder / "a.png").size[0] > 300


def test_find_batch_goes_up_to_all_images(ranks):
    told = ranks.run("benchmark", "--find", "batch", "--json", "b.json", "train.num_threads=1")
    tried = json.loads((ranks.folder / "b.json").read_text())
    assert [one["size"] for one in tried] == [8, 16, 32, 64, 128, 256, 512, 1024], "digits has 1,294 to train on"
    assert all(one["images_per_second"] > 0 and one["peak_bytes"] > 0 for one in tried)
    assert "largest that fits: train.micro_batch_size=1024" in told
