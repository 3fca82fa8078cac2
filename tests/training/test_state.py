"""What moves in a step, what a checkpoint holds of it, and when a run has seen enough."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from variants import variant

from distcls.config.settings import Config, ParamGroupConfig
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.loading.micro_batch import MicroBatch
from distcls.plan.batches import BatchPlan
from distcls.training.objectives.build import build_objective
from distcls.training.objectives.objective import Task
from distcls.training.objectives.supervised import Supervised
from distcls.training.state import Position, TrainState, build_state
from distcls.training.step import TrainStep

CPU = torch.device("cpu")
PLAN = BatchPlan(num_images=64, global_batch_size=8, micro_batch_size=4, total_steps=20, seed=0)

pytestmark = pytest.mark.usefixtures("one_thread")


def make_config() -> Config:
    return variant(
        model__name="cnn2",
        model__args={"hidden": 8},
        optim__name="sgd",
        optim__schedule="constant",
        optim__lr=0.05,
        train__ema_decay=0.5,
    )


def fake_acceleration(scaler=None):
    """What TrainStep and build_state ask of Accelerate, for one process."""
    backward = torch.Tensor.backward if scaler is None else lambda loss: scaler.scale(loss).backward()
    return SimpleNamespace(
        device=CPU,
        dtype=torch.float32,
        scaler=scaler,
        backward=backward,
        no_sync=lambda _: contextlib.nullcontext(),
        prepare=lambda module, **_: module,
        prepare_for_evaluation=lambda module: module,
        autocast=contextlib.nullcontext,
        gradients_are_reused=False,
    )


def start(config: Config, acceleration=None, class_weights=None) -> tuple[TrainState, TrainStep]:
    acceleration = acceleration or fake_acceleration()
    data: Any = SimpleNamespace(class_names=["a", "b", "c"], image_size=8)
    run: Any = SimpleNamespace(processes=SimpleNamespace(world_size=1), progress=SimpleNamespace(note=lambda _: None))
    normalize = Normalize.build(config.augment.normalize, CPU, torch.float32, config.model.channels_last)
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
    task = Task(config, PLAN, data, 3, Augmentation(normalize, 3, 8), CPU, weights)
    objective = build_objective(config.objective, task)
    state = build_state(config, data, objective, acceleration, run)
    return state, TrainStep(config, objective, state, PLAN, acceleration)


def batch_of(step: int) -> list[MicroBatch]:
    draw = torch.Generator().manual_seed(step)
    return [
        MicroBatch(
            i, torch.randint(0, 256, (4, 8, 8, 3), generator=draw, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]), {}
        )
        for i in range(2)
    ]


def train(state: TrainState, train_step: TrainStep, until: int) -> None:
    while state.step < until:
        train_step(batch_of(state.step))


def snapshot(state: TrainState) -> dict[str, torch.Tensor]:
    """All tensors of a state, cloned."""
    tensors = {f"{file}.{name}": t for file, of_file in state.tensors().items() for name, t in of_file.items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": t for name, t in values.items() if torch.is_tensor(t)}
    return {name: t.clone() for name, t in tensors.items()}


def saved(state: TrainState) -> tuple:
    """What a checkpoint holds, through bytes."""
    file = io.BytesIO()
    torch.save(state.optimizer_state(), file)
    file.seek(0)
    return copy.deepcopy(state.tensors()), torch.load(file, weights_only=True), state.position_dict()


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "fused"), [("sgd", True), ("sgd", False), ("adamw", True), ("adamw", False)])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_restored_state_goes_on_with_the_same_bits(optimizer, fused, deterministic):
    config = variant(make_config(), optim__name=optimizer, optim__fused=fused, train__deterministic=deterministic)
    whole, whole_step = start(config)
    train(whole, whole_step, 3)
    tensors, optimizer_state, position = saved(whole)
    train(whole, whole_step, 6)
    resumed, resumed_step = start(config)
    resumed.restore(tensors, optimizer_state, position)
    assert resumed.step == 3
    train(resumed, resumed_step, 6)
    assert same_bits(snapshot(resumed), snapshot(whole))
    assert any(name.startswith("ema.") for name in snapshot(whole))


@pytest.mark.parametrize("ema_decay", [0.5, None])
def test_saving_and_evaluating_change_no_bits(ema_decay):
    """With an average, that is what is evaluated; without one, what is trained."""
    config = variant(make_config(), model__args={"hidden": 8, "dropout": 0.5}, train__ema_decay=ema_decay)
    (plain, plain_step), (looked_at, looked_at_step) = start(config), start(config)
    train(plain, plain_step, 4)
    for step in range(1, 5):
        train(looked_at, looked_at_step, step)
        snapshot(looked_at)
        looked_at.eval_module.eval()(torch.zeros(1, 3, 8, 8))
    assert same_bits(snapshot(plain), snapshot(looked_at))


def test_a_momentum_that_lies_otherwise_in_memory_is_refused():
    """Fused optimizers would go on with wrong numbers, and say nothing."""
    state, train_step = start(make_config())
    train(state, train_step, 1)
    tensors, optimizer_state, position = saved(state)
    for values in optimizer_state["optimizer"]["state"].values():
        values["momentum_buffer"] = values["momentum_buffer"].contiguous()
    with pytest.raises(ValueError, match="momentum_buffer has strides"):
        start(make_config())[0].restore(tensors, optimizer_state, position)


def test_the_fresh_weights_are_a_function_of_the_seed():
    config, other = make_config(), variant(make_config(), train__seed=1)
    first, again, another = (start(c)[0] for c in (config, config, other))
    torch.rand(3)
    assert same_bits(snapshot(first), snapshot(again))
    assert not same_bits(snapshot(first), snapshot(another))


def test_what_is_evaluated_is_the_average_with_current_statistics():
    state, train_step = start(make_config())
    train(state, train_step, 3)
    assert state.eval_module is state.ema
    ours, average = state.module.state_dict(), state.eval_module.state_dict()
    assert torch.equal(average["blocks.0.1.running_mean"], state.statistics.running[:32])
    assert not torch.equal(average["head.weight"], ours["head.weight"])
    state.ema = None
    assert state.eval_module is state.module


class Waves(nn.Module):
    """Multiplies pixels with complex numbers, which are not trained."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("waves", torch.polar(torch.ones(192), torch.arange(192.0)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.convolution, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(192, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head((self.convolution(images).flatten(1) * self.waves).real.to(images.dtype))


def test_complex_and_whole_numbers_of_the_network_stay_in_any_precision(monkeypatch):
    import ledger

    monkeypatch.setattr(ledger, "waves", Waves, raising=False)
    acceleration = fake_acceleration()
    acceleration.dtype = torch.float64
    config = variant(
        make_config(),
        **{"model__name": "ledger:waves", "model__args": {}, "train__precision": "float64"},
        **{"objective__name": "proxy_selection", "objective__args": {"model": "ledger:waves"}},
    )
    state, _ = start(config, acceleration)
    for own in (state.module.state_dict(), state.further["proxy"].state_dict()):
        assert list(own) == list(Waves(3).state_dict()) and torch.equal(own["waves"], Waves(3).get_buffer("waves"))
        assert own["seen"].dtype is torch.int64 and own["head.weight"].dtype is torch.float64
        assert not own["convolution.weight"].is_contiguous(), "channels_last"


# The best evaluation -------------------------------------------------------------------------------


def evaluations(metric: str, values: list[float]) -> tuple[TrainState, list[bool]]:
    state, _ = start(make_config())
    best = []
    for step, value in enumerate(values, start=1):
        state.position.step = step
        assert not state.is_evaluated
        best.append(state.record({"loss": 1.0, metric: value}, metric))
        assert state.is_evaluated
    return state, best


@pytest.mark.parametrize(
    ("metric", "values", "best", "best_step"),
    [
        ("accuracy", [0.5, 0.5, 0.6, 0.4], [True, False, True, False], 3),
        ("loss", [0.5, 0.5, 0.4, 0.6], [True, False, True, False], 3),
        ("ece", [0.1, 0.2], [True, False], 1),
        ("macro_f1", [float("nan"), 0.1, float("nan")], [False, True, False], 2),
    ],
)
def test_the_best_is_the_first_of_the_best(metric, values, best, best_step):
    state, found = evaluations(metric, values)
    assert found == best
    assert state.position.best_step == best_step
    assert state.position.best_value == values[best_step - 1]


def test_patience_ends_after_so_many_evaluations_without_a_better_one():
    state, _ = evaluations("accuracy", [0.5, 0.6, 0.6, 0.5])
    assert not state.has_stopped_early(3)
    assert state.has_stopped_early(2)
    assert not state.has_stopped_early(None)


def test_among_equals_the_lower_loss_is_better_for_the_kept_weights_and_for_patience():
    """An epoch that the table stars as best is never called no better than the one before."""
    state, _ = start(make_config())
    found, waited = [], []
    for step, loss in enumerate([0.9, 1.1, 0.2, 0.2], start=1):
        state.position.step = step
        found.append(state.record({"accuracy": 0.5, "loss": loss}, "accuracy"))
        waited.append(state.position.evaluations_since_best)
    assert found == [True, False, True, False] and waited == [0, 1, 0, 1]
    assert state.position.best_step == 3


@pytest.mark.parametrize(
    ("metric", "values", "told"),
    [
        ("accuracy", [0.75, 0.5], "the last evaluation was no better than that of step 1, whose accuracy is 75.00%"),
        ("ece", [0.1, 0.2, 0.3], "the last 2 evaluations were no better than that of step 1, whose ECE is 0.1000"),
        ("loss", [math.nan, math.nan, math.nan], "in the last 3 evaluations the loss was not a number"),
        ("loss", [math.nan], "in the last evaluation the loss was not a number"),
    ],
)
def test_why_a_run_stopped_early(metric, values, told):
    state, _ = evaluations(metric, values)
    assert state.why_stopped_early(metric) == f"stopped early at step {len(values)}: {told}"


def test_means_of_training_are_those_of_a_run_never_interrupted():
    """Their sums are in the checkpoint, to the last bit, and begin anew with each evaluation."""
    draw = random.Random(0)
    numbers = [(draw.random(), draw.random()) for _ in range(20)]
    state, _ = start(make_config())
    assert state.position.take_means() == (None, None)
    for loss, accuracy in numbers[:7]:
        state.position.add_step(loss, accuracy)
    resumed = Position(**json.loads(json.dumps(state.position_dict())))
    for position in (state.position, resumed):
        for loss, accuracy in numbers[7:]:
            position.add_step(loss, accuracy)
    means = resumed.take_means()
    assert means == state.position.take_means()
    assert means == tuple(pytest.approx(sum(column) / 20) for column in zip(*numbers, strict=True))
    assert resumed.take_means() == (None, None)


# The step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weights", [None, np.array([0.5, 1.0, 2.0])])
def test_a_step_reports_loss_accuracy_and_norm_of_the_global_batch(class_weights):
    """The loss is the sum over images divided by their number, weighted or not."""
    config = variant(make_config(), model__args={"hidden": 8, "dropout": 0.0})
    state, train_step = start(config, class_weights=class_weights)
    weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
    reference = copy.deepcopy(state.module).train()
    loss, accuracy, norm = train_step(batch_of(0)).tolist()
    losses, right = [], []
    for micro in batch_of(0):
        logits = reference(train_step.objective.task.augment(micro)[0])
        losses.append(nn.functional.cross_entropy(logits, micro.labels, weight, reduction="sum") / 8)
        right.append((logits.argmax(1) == micro.labels).sum().item())
    torch.stack(losses).sum().backward()
    norms = torch.stack([p.grad.norm() for p in reference.parameters()])
    assert loss == pytest.approx(sum(losses).item(), rel=1e-5)
    assert accuracy == sum(right) / 8
    assert norm == pytest.approx(norms.norm().item(), rel=1e-4)


def test_a_clipped_gradient_has_the_norm_that_was_asked_for():
    config = variant(make_config(), train__max_grad_norm=0.01)
    state, train_step = start(config)
    *_, norm = train_step(batch_of(0)).tolist()
    assert norm > 0.01  # what is reported is what it was
    after = torch.stack([p.grad.norm() for p in state.module.parameters()]).norm().item()
    assert after == pytest.approx(0.01, rel=1e-3)


def test_a_skipped_step_counts_and_moves_nothing():
    config = variant(make_config(), train__skip_steps=[2])
    state, train_step = start(config)
    train(state, train_step, 2)
    before = snapshot(state)
    assert train_step(batch_of(2)) is None
    assert state.step == 3
    assert same_bits(snapshot(state), before)
    assert train_step(batch_of(3)) is not None
    assert not same_bits(snapshot(state), before)


def overflowing(at: int, optimizer: str, **settings: Any) -> tuple[TrainState, TrainStep]:
    """A run under a loss scale of 4 whose forward pass overflows in one step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    config = variant(make_config(), optim__name=optimizer, optim__weight_decay=0.0, **settings)
    acceleration = fake_acceleration(scaler)
    state, train_step = start(config, acceleration)
    objective = cast(Supervised, train_step.objective)
    plain = objective.loss
    objective.loss = lambda logits, labels: plain(logits * (torch.inf if state.step == at else 1.0), labels)
    return state, train_step


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_that_overflows_counts_and_moves_neither_weights_nor_average_nor_statistics(optimizer, at):
    """What it says of that stays on the device, where it is read one step late."""
    state, train_step = overflowing(at, optimizer)
    train(state, train_step, at)
    before = snapshot(state)
    loss, _, norm, scale, moved = train_step(batch_of(at)).tolist()
    assert (state.step, scale, moved) == (at + 1, 2.0, 0.0)
    assert not math.isfinite(loss) and not math.isfinite(norm)
    assert all(torch.equal(snapshot(state)[name], tensor) for name, tensor in before.items())
    assert state.statistics.steps.tolist() == [at] * len(state.statistics.layers)
    *_, scale, moved = train_step(batch_of(at + 1)).tolist()
    assert (scale, moved) == (2.0, 1.0)
    assert not same_bits(snapshot(state), before)
    assert all(tensor.isfinite().all() for tensor in snapshot(state).values())


def test_an_overflow_in_the_first_step_leaves_no_trace_in_the_momentum():
    """Fused SGD takes its first momentum from memory that nobody has written if the first step is skipped."""
    junk = [torch.full_like(p, 1e6) for p in start(make_config())[0].module.parameters() for _ in range(3)]
    state, train_step = overflowing(0, "sgd")
    train_step(batch_of(0))
    del junk
    train_step(batch_of(1))
    for parameter in state.module.parameters():
        assert torch.equal(state.optimizer.state[parameter]["momentum_buffer"], parameter.grad)


def test_a_loss_scale_does_not_change_the_step():
    """Powers of two are exact, so unscaled gradients are those of a run without a scale."""
    (plain, plain_step), (scaled, scaled_step) = (
        start(make_config()),
        start(make_config(), fake_acceleration(torch.amp.GradScaler("cpu", init_scale=4.0))),
    )
    train(plain, plain_step, 3)
    train(scaled, scaled_step, 3)
    assert same_bits(snapshot(plain), snapshot(scaled))


def test_the_rate_of_a_group_is_its_share_of_the_rate_of_the_step():
    from distcls.config.settings import ParamGroupConfig

    groups = [ParamGroupConfig(match="^head", lr_scale=0.1)]
    config = variant(make_config(), optim__warmup="4 steps", optim__groups=groups)
    state, train_step = start(config)
    train(state, train_step, 2)
    rates = {group["lr_scale"]: group["lr"] for group in state.optimizer.param_groups}
    assert rates == {0.1: pytest.approx(0.05 * 2 / 4 * 0.1), 1.0: pytest.approx(0.05 * 2 / 4)}


def test_the_average_has_the_buffers_of_the_model_when_it_is_looked_at():
    config = variant(make_config(), train__ema_decay=0.9)
    state, _ = start(config)
    for module in (state.module, state.ema):
        assert module is not None
        module.register_buffer("seen", torch.zeros(1))
    state.module.seen += 3
    assert state.eval_module is state.ema and state.ema.seen == 3


# Parts that are frozen at first ----------------------------------------------------------------------

FREEZING: list[dict[str, Any]] = [
    {"optim__name": "sgd", "optim__fused": True},
    {"optim__name": "sgd", "optim__fused": False, "optim__nesterov": True},
    {"optim__name": "adamw", "optim__fused": True, "train__deterministic": True},
    {"optim__groups": [ParamGroupConfig(match="^blocks", name="adamw"), ParamGroupConfig(match="bias", lr_scale=2.0)]},
    {"optim__layer_decay": 0.5, "train__deterministic": True},
]


def freezing_config(**settings: Any) -> Config:
    """The head alone is trained for two steps, then the second block and the hidden layer too, from step 4 all."""
    until = {"blocks": "4 steps", "blocks.1": "2 steps", "hidden": "2 steps"}
    return variant(
        make_config(), model__freeze_until=until, optim__weight_decay=0.1, train__max_grad_norm=1.0, **settings
    )


def of_part(tensors: dict[str, torch.Tensor], state: TrainState, *parts: str) -> dict[str, torch.Tensor]:
    """The tensors of these parts: weights, statistics, average, and what the optimizer keeps."""
    names = [name for group in state.optimizer.param_groups for name in group["names"]]
    full = {
        f"{names[int(name.split('.')[1])]}.{name}" if name.startswith("optimizer") else name.partition(".")[2]: tensor
        for name, tensor in tensors.items()
    }
    return {name: tensor for name, tensor in full.items() if name.startswith(parts)}


@pytest.mark.parametrize("settings", FREEZING)
def test_a_part_that_is_frozen_at_first_does_not_move_at_all_and_then_does(settings):
    state, train_step = start(freezing_config(**settings))
    fresh = snapshot(state)
    train(state, train_step, 2)
    now, body = snapshot(state), ("blocks", "hidden")
    assert same_bits(of_part(now, state, *body), of_part(fresh, state, *body))
    assert not torch.equal(now["model.head.weight"], fresh["model.head.weight"])
    assert all(p.grad is None and not p.requires_grad for p in state.module.get_submodule("blocks").parameters())
    train(state, train_step, 4)
    later = snapshot(state)
    assert same_bits(of_part(later, state, "blocks.0"), of_part(fresh, state, "blocks.0"))
    assert not torch.equal(later["model.blocks.1.1.running_mean"], fresh["model.blocks.1.1.running_mean"])
    train(state, train_step, 5)
    for name in ("model.blocks.0.0.weight", "model.blocks.0.1.running_var", "ema.blocks.0.0.weight"):
        assert not torch.equal(snapshot(state)[name], fresh[name])


@pytest.mark.parametrize("settings", FREEZING)
@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_run_resumed_in_any_phase_has_the_bits_of_a_run_never_interrupted(settings, at):
    config = freezing_config(**settings)
    whole, whole_step = start(config)
    train(whole, whole_step, at)
    kept = saved(whole)
    train(whole, whole_step, 7)
    resumed, resumed_step = start(config)
    resumed.restore(*kept)
    train(resumed, resumed_step, 7)
    assert same_bits(snapshot(resumed), snapshot(whole))


@pytest.mark.parametrize("deterministic", [True, False])
def test_while_it_is_frozen_a_part_is_as_one_that_is_never_trained(deterministic):
    config = variant(make_config(), train__deterministic=deterministic)
    at_first, at_first_step = start(variant(config, model__freeze_until="3 steps"))
    ever, ever_step = start(variant(config, model__freeze=["blocks", "hidden"]))
    for state, train_step in ((at_first, at_first_step), (ever, ever_step)):
        train(state, train_step, 3)
    assert same_bits({**at_first.tensors()["model"]}, {**ever.tensors()["model"]})
    train(at_first, at_first_step, 4)
    assert not torch.equal(at_first.module.get_parameter("hidden.weight"), ever.module.get_parameter("hidden.weight"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_overflow_while_a_part_is_frozen_moves_nothing(optimizer):
    state, train_step = overflowing(1, optimizer, model__freeze_until="3 steps")
    fresh = snapshot(state)
    train(state, train_step, 3)
    now = snapshot(state)
    assert same_bits(of_part(now, state, "blocks", "hidden"), of_part(fresh, state, "blocks", "hidden"))
    train(state, train_step, 5)
    assert all(tensor.isfinite().all() for tensor in snapshot(state).values())
    assert not torch.equal(snapshot(state)["model.hidden.weight"], fresh["model.hidden.weight"])
