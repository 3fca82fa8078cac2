"""What a run is at a step boundary: all that a checkpoint holds, and nothing that can be recomputed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from distcls.config.settings import Config
from distcls.data.split import Data
from distcls.models.build import build_model
from distcls.models.init_from import init_from
from distcls.optim.build import build_optimizer
from distcls.optim.ema import build_ema, copy_buffers
from distcls.plan.randomness import seed_torch
from distcls.runs.folder import RunFolder
from distcls.training.acceleration import Acceleration
from distcls.training.gradients import BatchNormStatistics

MINIMIZED = ("loss", "ece")
"""Metrics that are better when they are smaller."""


@dataclass
class Position:
    """Where the run stands: plain numbers, saved as JSON."""

    step: int = 0
    """Optimizer steps completed, skipped ones included."""
    evaluated_step: int = 0
    """Step of the last evaluation."""
    best_step: int | None = None
    best_value: float | None = None
    best_loss: float | None = None
    evaluations_since_best: int = 0
    skipped_steps: int = 0
    """Steps that updated nothing because fp16 overflowed."""

    def forget_best(self) -> None:
        """Choose the best anew."""
        self.best_step = self.best_value = self.best_loss = None
        self.evaluations_since_best = 0


@dataclass
class TrainState:
    """The weights and everything that moves with them.

    `module` is the plain network; `model` is what is called in training: the same weights behind DDP,
    autocast and torch.compile. Names in checkpoints are those of `module`.
    """

    module: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    statistics: BatchNormStatistics
    scaler: Any = None
    ema: nn.Module | None = None
    position: Position = field(default_factory=Position)

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self.position.step

    @property
    def is_evaluated(self) -> bool:
        """Whether these weights have been measured."""
        return self.position.evaluated_step == self.step

    def is_finite(self) -> bool:
        """True if all weights are numbers; it waits for the device."""
        weights = [p.detach() for p in self.module.parameters() if p.is_floating_point() and p.numel()]
        return not weights or bool(torch.isfinite(torch.stack(torch._foreach_norm(weights, math.inf))).all())

    def record(self, metrics: dict[str, Any], metric: str) -> bool:
        """Take note of an evaluation of these weights; whether it is the best so far by this metric.

        Small val splits tie all the time: among equals the lower loss is better, but it gives no new patience.
        """
        position, value, loss = self.position, metrics[metric], metrics["loss"]
        position.evaluated_step = self.step
        if _is_better(metric, value, position.best_value):
            position.best_step, position.best_value, position.best_loss = self.step, value, loss
            position.evaluations_since_best = 0
            return True
        position.evaluations_since_best += 1
        if value == position.best_value and position.best_loss is not None and loss < position.best_loss:
            position.best_step, position.best_loss = self.step, loss
            return True
        return False

    def has_stopped_early(self, patience: int | None) -> bool:
        """Whether so many evaluations in a row were no better than the best."""
        return patience is not None and self.position.evaluations_since_best >= patience

    def why_stopped_early(self, metric: str) -> str:
        """In words."""
        position = self.position
        was = "not a number" if position.best_value is None else f"not better than {position.best_value:.4f}"
        evaluations = f"in {position.evaluations_since_best} evaluations the {metric} was {was}"
        return f"stopped early at step {self.step:,}: {evaluations}"

    @property
    def eval_module(self) -> nn.Module:
        """The network that is evaluated and kept: the average where there is one. Its statistics are current."""
        self.publish_statistics()
        return self.ema if self.ema is not None else self.module

    def publish_statistics(self) -> None:
        """Bring BatchNorm's running statistics into the modules."""
        if self.ema is not None:
            copy_buffers(self.ema, self.module)
        self.statistics.publish(self.module, *([self.ema] if self.ema is not None else []))

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Weights and buffers by file of the checkpoint."""
        self.publish_statistics()
        modules = {"model": self.module} | ({"ema": self.ema} if self.ema is not None else {})
        return {name: dict(module.state_dict()) for name, module in modules.items()}

    def optimizer_state(self) -> dict[str, Any]:
        """Optimizer and loss scale, for torch.save."""
        scaler = {"scaler": self.scaler.state_dict()} if self.scaler is not None else {}
        return {"optimizer": self.optimizer.state_dict(), **scaler}

    def restore(
        self, tensors: dict[str, dict[str, torch.Tensor]], optimizer_state: dict[str, Any], position: dict[str, Any]
    ) -> None:
        """Become what was saved. Raises ValueError where the optimizer's state lies differently in memory."""
        self.module.load_state_dict(tensors["model"])
        if self.ema is not None:
            self.ema.load_state_dict(tensors["ema"])
        self.statistics.adopt()
        self.optimizer.load_state_dict(optimizer_state["optimizer"])
        _check_strides(self.optimizer)
        if self.scaler is not None:
            self.scaler.load_state_dict(optimizer_state["scaler"])
        self.position = Position(**position)

    def position_dict(self) -> dict[str, Any]:
        """Where the run stands, for JSON."""
        return asdict(self.position)


def build_state(
    config: Config, data: Data, acceleration: Acceleration, run: RunFolder, with_init_from: bool = True
) -> TrainState:
    """The state before the first step, on the device. Weights are drawn on the CPU, so that devices agree.

    A run that goes on has its weights in its checkpoint: `with_init_from=False` needs no other source.
    """
    seed_torch(torch.device("cpu"), config.train.seed, "init")
    module = build_model(config.model, len(data.class_names), data.image_size)
    if config.model.init_from is not None and with_init_from:
        _load_as_main(module, config.model.init_from, data.class_names, run)
    if config.train.sync_batchnorm and run.processes.world_size > 1:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    module.to(acceleration.device, acceleration.dtype)
    ema = build_ema(module) if config.train.ema_decay is not None else None
    return TrainState(
        module=module,
        # Deterministic sums leave DDP out; one process needs none.
        model=acceleration.prepare(module, distributed=not config.train.deterministic),
        optimizer=build_optimizer(config.optim, module),
        statistics=BatchNormStatistics(module),
        scaler=acceleration.scaler,
        ema=acceleration.prepare(ema, distributed=False, compiled=False) if ema is not None else None,
    )


def _load_as_main(module: nn.Module, source: str, class_names: list[str], run: RunFolder) -> None:
    """What the main process finds there is what all begin with: the others may see an older copy, or none."""

    def load() -> tuple[list[str], dict[str, torch.Tensor]]:
        return init_from(module, source, class_names), module.state_dict()

    lines, tensors = run.processes.from_main(load)
    module.load_state_dict(tensors)
    for line in lines:
        run.progress.note(line)


def _is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether a value of this metric beats the best so far; the first one does, and a NaN never."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if metric in MINIMIZED else value > best


def _check_strides(optimizer: torch.optim.Optimizer) -> None:
    """A momentum of other strides than its weight makes fused CPU optimizers compute wrong values, silently."""
    for parameter, state in optimizer.state.items():
        expected = torch.empty_like(parameter, device="meta").stride()
        for name, value in state.items():
            is_like_parameter = isinstance(value, torch.Tensor) and value.ndim and value.shape == parameter.shape
            if is_like_parameter and value.stride() != expected:
                raise ValueError(f"the optimizer's {name} has strides {value.stride()}, its parameter {expected}")
