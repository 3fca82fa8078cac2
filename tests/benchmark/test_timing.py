"""What `distcls benchmark` measures."""

from __future__ import annotations

import pytest

from distcls.benchmark.timing import Limits, run_measured
from distcls.config.loading import load_config
from distcls.training.acceleration import Acceleration
from distcls.training.loop import train


def test_the_measured_loop_is_the_one_that_trains(tmp_path, monkeypatch: pytest.MonkeyPatch):
    prepare, prepared = Acceleration.prepare, []

    def noting(self, module, **how):
        prepared.append(how)
        return prepare(self, module, **how)

    monkeypatch.setattr(Acceleration, "prepare", noting)
    config = load_config(None, ["data.name=digits", "model.name=cnn2", "train.num_steps=3", "run.trackers=[]"])
    run_measured(config, Limits(warmup=1, steps=1))
    train(config.replaced({"run.dir": str(tmp_path / "run")}), "run")
    assert prepared[0] == prepared[1] == {"distributed": True, "all_used": True}
