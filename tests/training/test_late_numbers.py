"""Nothing in a step waits for the device, shown without one: meta tensors have no numbers that could be read."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small_steps import AUGMENT, PLAN, make_config, make_split, make_step
from torch.overrides import TorchFunctionMode
from variants import variant

from distcls.config.loading import read_config
from distcls.config.settings import Config, LookaheadConfig
from distcls.data.loading.loader import train_batches
from distcls.models.trial import Tried
from distcls.training import late_numbers, watch
from distcls.training.late_numbers import FinishedStep, LateNumbers
from distcls.training.state import TrainState
from distcls.training.step import TrainStep
from distcls.training.watch import Watch

META = torch.device("meta")
ROOT = Path(__file__).parents[2]


class NothingFromTheHost(TorchFunctionMode):
    """Refuses what would copy numbers from ordinary memory to a device, and so wait for it."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        of_host = [a for a in args if isinstance(a, torch.Tensor) and a.device.type == "cpu"]
        moved = isinstance(result, torch.Tensor) and result.device.type == "meta"
        assert func not in self.MAKERS, f"{func} makes a tensor on the host"
        assert not (of_host and moved), f"{func} brings {of_host} to the device"
        indices = args[1] if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) else ()
        for index in indices if isinstance(indices, tuple) else (indices,):
            assert not isinstance(index, list | np.ndarray), f"the index {index} is copied to the device"
        return result


class NumbersOfMeta(LateNumbers):
    """What stands in for the pinned copies and events of a GPU: a copy that never arrives is 1 everywhere."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        assert device == META

    def put(self, step: int, numbers: torch.Tensor) -> FinishedStep | None:
        assert numbers.device == META
        return super().put(step, torch.ones(numbers.shape))


@pytest.fixture(autouse=True)
def no_trial(monkeypatch):
    """A model is tried before the first step, where waiting costs nothing; meta tensors cannot be tried."""
    monkeypatch.setattr("distcls.training.state.try_model", lambda *_, **__: Tried([], []))


def start(config: Config) -> tuple[TrainState, TrainStep]:
    acceleration: Any = SimpleNamespace(
        device=META,
        dtype=torch.float32,
        scaler=None,
        backward=torch.Tensor.backward,
        no_sync=lambda _: contextlib.nullcontext(),
        prepare=lambda module, **_: module,
        prepare_for_evaluation=lambda module: module,
        autocast=contextlib.nullcontext,
        gradients_are_reused=False,
    )
    return make_step(config, acceleration)


def run_steps(config: Config, monkeypatch, bad: dict[int, str] | None = None) -> list[dict]:
    """Four steps with everything that the loop does in between; the rows for metrics.csv."""
    monkeypatch.setattr(watch, "LateNumbers", NumbersOfMeta, raising=False)
    split, rows = make_split(config), []
    progress = SimpleNamespace(
        start=lambda total, done: None, is_time_for=lambda step: True, update=lambda *_: None, warning=lambda _: None
    )
    run: Any = SimpleNamespace(
        processes=SimpleNamespace(device=META, is_main=True),
        progress=progress, at=lambda step, phase: None, track=lambda **row: rows.append(row),
    )  # fmt: skip
    state, train_step = start(config)
    watched = Watch(config, state, PLAN, split, run)
    batches = train_batches(split, PLAN, config.augment, META, 0, 0)
    for step in range(PLAN.total_steps):
        micro_batches = watched.wait_for(batches)
        micro_batches[1].went_bad.update(bad or {})
        with NothingFromTheHost() if step else contextlib.nullcontext():  # the first makes what stays
            numbers = train_step(micro_batches)
            watched.saw(numbers, train_step.names)
    watched.catch_up("evaluate")  # a save may wait: it looks whether the weights are finite
    return rows


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("model", ["cnn2", "resnet9"])
def test_a_step_waits_for_nothing(model, optimizer, deterministic, monkeypatch):
    config = make_config(model, **AUGMENT["crop and flip"])
    config = variant(config, optim__name=optimizer, train__deterministic=deterministic)
    rows = run_steps(config, monkeypatch)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_muon_in_groups_and_lookahead_wait_for_nothing(monkeypatch):
    """The recipes of airbench, whose first weights from images are another matter."""
    monkeypatch.setattr("distcls.training.state.load_first_weights", lambda *_: None)
    optim = read_config(ROOT / "configs" / "cifar10_airbench94.yaml").optim
    optim = dataclasses.replace(optim, lookahead=LookaheadConfig(every=2), fused=False)
    config = variant(make_config("airbench", **AUGMENT["crop and flip"]), model__args={"widths": [4, 4, 4]})
    assert len(run_steps(dataclasses.replace(config, optim=optim), monkeypatch)) == 4


@pytest.mark.parametrize("augment", AUGMENT)
def test_no_augmentation_waits(augment, monkeypatch):
    assert len(run_steps(make_config("cnn2", **AUGMENT[augment]), monkeypatch)) == 4


@pytest.mark.parametrize("augment", ["nothing", "mixup"])
def test_an_image_that_went_bad_is_not_waited_for(augment, monkeypatch):
    config = make_config("cnn2", **AUGMENT[augment])
    assert len(run_steps(config, monkeypatch, bad={2: "gone", 3: "gone"})) == 4


def test_the_focal_loss_waits_for_nothing(monkeypatch):
    config = variant(make_config("cnn2"), loss__name="focal")
    assert len(run_steps(config, monkeypatch)) == 4


def test_a_batchnorm_that_averages_waits_for_nothing(monkeypatch):
    config = make_config("cnn2")
    state, train_step = start(config)
    state.statistics.has_averages = True
    state.statistics.is_average = torch.ones(2, dtype=torch.bool, device=META)
    batches = train_batches(make_split(config), PLAN, config.augment, META, 0, 0)
    train_step(next(batches))
    second = next(batches)
    with NothingFromTheHost():
        train_step(second)


@pytest.mark.parametrize(
    "wait",
    [
        torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.nonzero,
        lambda t: t[t > 0], lambda t: torch.tensor([1.0], device=META), lambda t: t[[0]],
        lambda t: t.copy_(torch.zeros(1)), lambda t: t * torch.zeros(1).to(META),
    ],
)  # fmt: skip
def test_these_tests_see_what_waits(wait):
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)), NothingFromTheHost():
        wait(torch.ones(1, device=META))


# The clock -----------------------------------------------------------------------------------------


def test_speed_and_waiting_are_of_finished_steps_and_leave_out_what_came_between(monkeypatch):
    """The times at which data is asked for, is there, and a step is done."""
    times = iter([0, 1, 5, 5, 7, 15, 100, 101, 104])  # an evaluation took from 15 to 100
    monkeypatch.setattr(late_numbers, "time", SimpleNamespace(perf_counter=lambda: float(next(times))))
    late, numbers, found = LateNumbers(torch.device("cpu")), torch.zeros(3), []
    for step in range(3):
        late.ask()
        late.begin()
        found.append(late.put(step, numbers))
        if step == 1:
            found.append(late.take())
    found.append(late.take())
    steps = [(f.step, f.seconds, f.waiting) for f in found if f is not None]
    assert steps == [(0, 5.0, 1.0), (1, 10.0, 2.0), (2, 4.0, 1.0)]


class FakeEvent:
    """An event of a queue that runs a second behind each record; it writes down who waits for it."""

    waited_for: ClassVar[list[int]] = []
    recorded = 0

    def __init__(self, **_: bool) -> None:
        self.time = 0

    def record(self) -> None:
        FakeEvent.recorded += 1
        self.time = FakeEvent.recorded

    def synchronize(self) -> None:
        self.waited_for.append(self.time)

    def elapsed_time(self, later: FakeEvent) -> float:
        assert later.time <= max(self.waited_for), "the time of an event that has not happened yet"
        return 1000.0 * (later.time - self.time)


def test_a_gpu_is_waited_for_until_the_step_before_was_done_and_no_longer(monkeypatch):
    empty = torch.empty
    pinned = []

    def empty_pinned(*shape, pin_memory=False, **kwargs):
        pinned.append(pin_memory)
        return empty(*shape, **kwargs)

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch, "empty", empty_pinned)
    late, found = LateNumbers(torch.device("cuda")), []
    for step in range(3):  # events 1 2 3 (done), 4 5 6 (done), 7 8 9 (done)
        late.ask()
        late.begin()
        found.append(late.put(step, torch.full((3,), step)))
        assert FakeEvent.waited_for == [3, 6][:step]
    assert pinned == [True] * 3
    assert found == [None, FinishedStep(0, [0, 0, 0], 2.0, 1.0), FinishedStep(1, [1, 1, 1], 3.0, 1.0)]
