"""Objectives of somebody's own keep the promises: kills cost nothing, and 1, 2 and 4 processes give the same bits."""

from __future__ import annotations

import ledger
import pytest
from ranks import await_step, read_json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distcls.runs.tracking.metrics_file import read_metrics

STEPS = 20
SETTINGS = [
    "model.name=own_objectives:Features",
    "augment.pad_crop=1",
    "augment.flip=true",
    "augment.brightness=0.2",
    "optim.groups=[{match: ^head, name: sgd, lr: 0.1, momentum: 0.8}, {match: bias, schedule: constant}]",
    "train.global_batch_size=32",
    "train.micro_batch_size=4",
    "train.ema_decay=0.9",
    "train.eval_every=7 steps",
    "train.checkpoint_every=3 steps",
    "train.num_threads=1",
    "run.trackers=[]",
    f"train.num_steps={STEPS}",
]
OBJECTIVES = ["TwoViews", "Weighed"]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_bits_on_1_2_and_4_processes(ranks, name, precision):
    settings = [f"objective.name=own_objectives:{name}", "train.deterministic=true", f"train.precision={precision}"]
    started = {
        world_size: ranks.start("train", "--name", f"w{world_size}", *SETTINGS, *settings, world_size=world_size)
        for world_size in (1, 2, 4)
    }
    digests = {}
    for world_size, group in started.items():
        group.finish()
        run = ranks.folder / "runs" / f"w{world_size}"
        assert read_json(run / "env.json")["world_size"] == world_size
        digests[world_size] = ledger.digest(run, STEPS)
    assert digests[1] == digests[2] == digests[4]
    files = {tensor.split(".")[0] for tensor in digests[1]}
    assert files == {"model", "ema", "optimizer"} | (
        {"teacher", "projector", "center"} if name == "TwoViews" else set()
    )


def test_its_sums_are_logged_with_every_training_step_and_drawn(ranks):
    settings = ["objective.name=own_objectives:Weighed", "train.num_steps=6", "train.log_every=2 steps"]
    ranks.run("train", "--name", "logged", *SETTINGS, *settings, "run.trackers=[tensorboard]")
    rows = read_metrics(ranks.folder / "runs" / "logged" / "metrics.csv")
    means = {row["step"]: row["weight"] for row in rows if row["split"] == "train"}
    assert list(means) == [2, 4, 6] and all(0 < mean <= 1.1 for mean in means.values())
    assert {row["weight"] for row in rows if row["split"] != "train"} == {None}
    events = EventAccumulator(str(ranks.folder / "runs" / "logged" / "tb")).Reload()
    assert {e.step: pytest.approx(e.value) for e in events.Scalars("weight/train")} == means


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("world_size", [1, 4])
def test_a_kill_costs_nothing(ranks, name, world_size):
    settings = [*SETTINGS, f"objective.name=own_objectives:{name}"]
    ranks.run("train", "--name", "whole", *settings, world_size=world_size)
    run = ranks.folder / "runs" / "killed"
    for step in (4, 11):
        group = ranks.start("train", "--name", "killed", *settings, world_size=world_size)
        await_step(run, step)
        assert group.alive()
        group.kill()
    ranks.run("train", "--name", "killed", *settings, world_size=world_size)
    whole = ledger.digest(ranks.folder / "runs" / "whole", STEPS)
    assert ledger.digest(run, STEPS) == whole
