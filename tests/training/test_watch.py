"""What is told of steps, and when a run must not go on."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from distcls.config.settings import AugmentConfig, Config, TrainConfig
from distcls.errors import DivergedError
from distcls.plan.batches import BatchPlan
from distcls.training import watch
from distcls.training.state import Position
from distcls.training.step import OF_FP16, REPORTED_FIRST
from distcls.training.watch import Watch


def make_watch(tmp_path, scaler: object = None) -> Watch:
    """Of a run that shows nothing."""
    state: Any = SimpleNamespace(step=1, scaler=scaler, position=Position(), is_finite=lambda: True)
    progress = SimpleNamespace(start=lambda total, done: None, is_time_for=lambda step: False)
    processes = SimpleNamespace(is_main=True, device=torch.device("cpu"))
    run: Any = SimpleNamespace(progress=progress, at=lambda step, phase: None, dir=tmp_path, processes=processes)
    images: Any = SimpleNamespace(image_name=lambda i: f"images/caf\udce9-{i}.jpg")
    return Watch(Config(), state, BatchPlan(10, 4, 2, 9, 0), images, run)


def take_step(watched: Watch, loss: float, norm: float, *of_fp16: float) -> None:
    watched.wait_for(iter([[]]))
    watched.saw(torch.tensor([loss, 0.5, norm, *of_fp16]), [*REPORTED_FIRST, *OF_FP16][: 3 + len(of_fp16)])
    watched.catch_up("save")


def test_a_step_that_is_not_finite_names_its_images(tmp_path):
    with pytest.raises(
        DivergedError, match=r"step 0 is not finite: its loss is nan.*diverged-0\.txt\. Everything up to"
    ):
        take_step(make_watch(tmp_path), np.nan, 1.0)
    lines = (tmp_path / "diverged-0.txt").read_bytes().splitlines()
    assert len(lines) == 5 and lines[2] == b"" and lines[0].startswith(b"images/caf\xe9-")


def test_a_full_disk_does_not_hide_that_a_run_diverged(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(watch, "write_text", full)
    with pytest.raises(DivergedError, match=r"its gradient norm inf\. Everything up to the last checkpoint is kept"):
        take_step(make_watch(tmp_path), 1.0, np.inf)


def test_fp16_goes_on_through_overflows_but_not_for_ever(tmp_path):
    watched = make_watch(tmp_path, scaler=object())
    take_step(watched, 1.0, np.inf, 2.0**-3, 0.0)
    assert watched.state.position.skipped_steps == 1
    with pytest.raises(DivergedError, match=r"still not finite in fp16 with a loss scale of 6\.1e-05.*precision=bf16"):
        take_step(watched, 1.0, np.nan, 2.0**-14, 0.0)


def test_a_forward_pass_that_overflows_in_fp16_does_not_end_the_run_nor_spoil_the_mean_loss(tmp_path):
    watched = make_watch(tmp_path, scaler=object())
    take_step(watched, np.nan, np.nan, 2.0**15, 0.0)
    take_step(watched, 2.0, 1.0, 2.0**15, 1.0)
    assert watched.state.position.take_means() == (2.0, 0.5) and list(watched.last_steps) == [(2.0, 0.5)]
    assert watched.state.position.skipped_steps == 1
    with pytest.raises(DivergedError, match="step 0 is not finite"):  # the weights moved
        take_step(watched, np.inf, 1.0, 2.0**15, 1.0)


def test_a_step_is_looked_at_once_the_next_one_is_queued(tmp_path):
    """Never before, and never later: every process decides at the same step."""
    watched = make_watch(tmp_path)
    watched.wait_for(iter([[]]))
    watched.saw(torch.tensor([np.nan, 0.5, 1.0]), REPORTED_FIRST)
    watched.state.step = 2
    watched.wait_for(iter([[]]))
    with pytest.raises(DivergedError, match="step 0 is not finite"):
        watched.saw(torch.tensor([1.0, 0.5, 1.0]), REPORTED_FIRST)


class Told:
    """A run of 40 steps, 3 an epoch, that keeps what it is told: rows of metrics.csv, the live line, the table."""

    def __init__(self, tmp_path: Path, config: Config) -> None:
        self.tracked: list[dict[str, Any]] = []
        self.live: list[tuple] = []
        self.table: list[dict[str, Any]] = []
        progress = SimpleNamespace(
            start=lambda total, done: None,
            is_time_for=lambda step: True,
            update=lambda *numbers: self.live.append(numbers),
            evaluation_row=self.table.append,
        )
        run: Any = SimpleNamespace(
            progress=progress,
            at=lambda step, phase: None,
            dir=tmp_path,
            processes=SimpleNamespace(is_main=True, device=torch.device("cpu")),
            track=lambda **row: self.tracked.append(row),
        )
        self.state: Any = SimpleNamespace(step=0, scaler=None, position=Position(), is_finite=lambda: True)
        self.watch = Watch(config, self.state, BatchPlan(12, 4, 4, 40, 0), cast(Any, None), run)

    def train(self, numbers: list[tuple[float, float]], **others: float) -> None:
        for loss, accuracy in numbers:
            self.state.step += 1
            step = torch.tensor([loss, accuracy, 1.0, *others.values()], dtype=torch.float64)
            self.watch.saw(step, [*REPORTED_FIRST, *others])
        self.watch.catch_up("save")

    def evaluate(self) -> None:
        self.state.position.best_step = self.state.step
        self.watch.tell(cast(Any, SimpleNamespace(values={"loss": 9.0}, scores={"loss": 9.0}, by_class=[])))

    def rows(self, split: str) -> list[dict[str, Any]]:
        return [row for row in self.tracked if row["split"] == split]


def test_what_an_objective_sums_and_what_fp16_skips_are_in_metrics_csv(tmp_path):
    config = Config(train=TrainConfig(log_every="1 step"))
    told = Told(tmp_path, config)
    told.train([(3.0, 0.25), (2.0, 0.5)], weight=0.75, apart=2.5)
    assert [(row["weight"], row["apart"]) for row in told.rows("train")] == [(0.75, 2.5)] * 2
    assert "skipped_steps" not in told.rows("train")[0]

    told = Told(tmp_path, config)
    told.state.scaler = object()
    told.train([(3.0, 0.25)], loss_scale=64.0, moved=1.0)
    told.train([(np.inf, 0.25)] * 2, loss_scale=16.0, moved=0.0)
    rows = told.rows("train")
    assert [(row["loss_scale"], row["skipped_steps"]) for row in rows] == [(64.0, 0), (16.0, 1), (16.0, 2)]
    assert "moved" not in rows[0]


def test_loss_and_accuracy_of_the_live_line_are_means_of_the_same_steps(tmp_path):
    told = Told(tmp_path, Config())
    told.train([(float(step), step / 100) for step in range(31)])
    steps, _, averaged, loss, accuracy, *_ = told.live[-1]
    assert (steps, averaged, loss, accuracy) == (31, 20, 20.5, pytest.approx(0.205))
    assert told.live[0][2:5] == (1, 0.0, 0.0)


def test_the_table_and_metrics_csv_have_the_means_since_the_last_evaluation(tmp_path):
    told = Told(tmp_path, Config())
    told.train([(3.0, 0.25), (2.0, 0.5), (1.0, 0.75)])
    told.evaluate()
    told.train([(0.5, 0.75), (1.5, 1.0)])
    told.evaluate()
    for rows in (told.table, told.rows("val")):
        means = [(row["train_loss"], row["train_accuracy"], row["loss"]) for row in rows]
        assert means == [(2.0, 0.5, 9.0), (1.0, 0.875, 9.0)]


@pytest.mark.parametrize("mixing", [{"mixup": 0.5}, {"cutmix": 1.0}])
def test_accuracy_on_mixtures_is_left_out(tmp_path, mixing):
    told = Told(tmp_path, Config(augment=AugmentConfig(**mixing)))
    told.train([(3.0, 0.25)] * 12)
    told.evaluate()
    assert told.live[-1][3:5] == (3.0, None)
    assert {row["accuracy"] for row in told.rows("train")} == {None}
    assert told.rows("val")[0]["train_accuracy"] is None and told.rows("val")[0]["train_loss"] == 3.0


@pytest.mark.parametrize(
    ("log_every", "logged"),
    [("2 steps", [2, 4, 6, 8]), ("1000 steps", [3, 6, 9]), ("50%", [3, 6, 9]), ("2 epochs", [3, 6, 9])],
)
def test_each_epoch_is_logged_at_least_once(tmp_path, log_every, logged):
    told = Told(tmp_path, Config(train=TrainConfig(log_every=log_every)))
    told.train([(1.0, 0.5)] * 9)
    assert [row["step"] for row in told.rows("train")] == logged
