"""Models that remember, skip and draw keep the promises too, and those that drift apart are ended."""

from __future__ import annotations

import ledger
from ranks import await_step

STEPS = 16
SETTINGS = [
    "optim.name=own_models:Noisy",
    "train.global_batch_size=32",
    "train.micro_batch_size=4",
    "train.eval_every=5 steps",
    "train.checkpoint_every=3 steps",
    "train.num_threads=1",
    "run.trackers=[]",
    f"train.num_steps={STEPS}",
]
REMEMBERING = [*SETTINGS, "model.name=own_models:Remembering", "train.ema_decay=0.9"]


def test_a_model_that_remembers_and_draws_gives_the_same_bits_on_1_2_and_4_processes(ranks):
    settings = [*REMEMBERING, "train.deterministic=true"]
    started = {w: ranks.start("train", "--name", f"w{w}", *settings, world_size=w) for w in (1, 2, 4)}
    for group in started.values():
        group.finish()
    digests = {w: ledger.digest(ranks.folder / "runs" / f"w{w}", STEPS) for w in started}
    assert digests[1] == digests[2] == digests[4]
    tensors = ledger.load(ranks.folder / "runs" / "w4", STEPS)
    assert (tensors["model.kept.running_var"] == 0.7).all()
    assert (tensors["model.skipped.running_var"] > 1e-3).all()
    assert tensors["model.passes"] == STEPS and tensors["model.level"].any()


def test_a_kill_costs_it_nothing(ranks):
    ranks.run("train", "--name", "whole", *REMEMBERING, world_size=2)
    run = ranks.folder / "runs" / "killed"
    group = ranks.start("train", "--name", "killed", *REMEMBERING, world_size=2)
    await_step(run, 7)
    group.kill()
    ranks.run("train", "--name", "killed", *REMEMBERING, world_size=2)
    assert ledger.digest(run, STEPS) == ledger.digest(ranks.folder / "runs" / "whole", STEPS)


def test_processes_that_drift_apart_are_ended_and_the_tensor_is_named(ranks):
    group = ranks.start(
        "train", "--name", "drifting", *SETTINGS, "model.name=own_models:Drifting", "train.global_batch_size=8",
        "optim.name=sgd", world_size=2,
    )  # fmt: skip
    assert group.wait() == [70, 70], group.output()
    assert "drifted apart" in group.output() and "'model: head.bias'" in group.output()
