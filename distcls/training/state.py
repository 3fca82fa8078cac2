"""The state of a run between two steps: everything that a checkpoint must hold, and nothing that can be recomputed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from distcls.cluster.processes import Processes
from distcls.config.durations import Duration
from distcls.config.metrics import METRICS
from distcls.config.settings import Config, ObjectiveConfig
from distcls.data.split import Data
from distcls.errors import DriftedError, UsageError
from distcls.models.build import build_model
from distcls.models.depthwise import speed_up_depthwise
from distcls.models.freezing import frozen_until
from distcls.models.recomputation import recompute_activations
from distcls.models.trial import try_model
from distcls.models.weights import convert, load_weights
from distcls.optim.averages import build_copy, copy_buffers
from distcls.optim.build import build_optimizer, start_momenta
from distcls.optim.groups import Group, group_parameters
from distcls.plan.randomness import seed_torch
from distcls.runs.folder import RunFolder
from distcls.training.acceleration import Acceleration
from distcls.training.objectives.objective import Objective
from distcls.training.start.first_weights import load_first_weights
from distcls.training.statistics import BatchNormStatistics, with_sync_batchnorm

RESERVED = ("model", "ema", "slow", "optimizer", "state", "length", "manifest")
"""Names of the other files in a checkpoint."""


@dataclass
class Position:
    """How far the run has come: plain numbers, saved as JSON."""

    step: int = 0
    """Optimizer steps completed, skipped ones included."""
    evaluated_step: int = 0
    """Step of the last evaluation."""
    best_step: int | None = None
    best_value: float | None = None
    best_loss: float | None = None
    evaluations_since_best: int = 0
    skipped_steps: int = 0
    """Steps without an update because fp16 overflowed."""
    steps_summed: int = 0
    """Training steps since the last evaluation, and the sums of their losses and accuracies."""
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0

    def add_step(self, loss: float, accuracy: float) -> None:
        """Add a training step to the means that are shown with the next evaluation."""
        self.steps_summed += 1
        self.loss_sum, self.accuracy_sum = self.loss_sum + loss, self.accuracy_sum + accuracy

    def take_means(self) -> tuple[float | None, float | None]:
        """Return mean loss and accuracy of the training steps since the last evaluation, and reset the sums."""
        sums, steps = (self.loss_sum, self.accuracy_sum), self.steps_summed
        self.steps_summed, self.loss_sum, self.accuracy_sum = 0, 0.0, 0.0
        return (sums[0] / steps, sums[1] / steps) if steps else (None, None)

    def forget_best(self) -> None:
        """Forget the best evaluation, so that it is chosen again."""
        self.best_step = self.best_value = self.best_loss = None
        self.evaluations_since_best = 0


@dataclass
class TrainState:
    """The weights and everything that changes with them.

    `module` is the plain network; `model` is what training calls: the same weights with DDP, autocast and
    torch.compile. Checkpoints use the names of `module`.
    """

    module: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    statistics: BatchNormStatistics
    scaler: Any = None
    ema: nn.Module | None = None
    slow: nn.Module | None = None
    """The slow weights of optim.lookahead."""
    groups: list[Group] = field(default_factory=list)
    """The optimizer's parameter groups, with the learning rate of each."""
    further: dict[str, nn.Module] = field(default_factory=dict)
    """The objective's modules, by name: a projector that is trained, a teacher that follows."""
    frozen_until: dict[str, Duration] = field(default_factory=dict)
    """How long each parameter that is frozen at first stays so, by name."""
    position: Position = field(default_factory=Position)

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self.position.step

    @property
    def is_evaluated(self) -> bool:
        """True if these weights have been evaluated."""
        return self.position.evaluated_step == self.step

    def is_finite(self) -> bool:
        """True if all weights are finite. This waits for the device."""
        weights = [p.detach() for p in self.module.parameters() if p.is_floating_point() and p.numel()]
        return not weights or bool(torch.isfinite(torch.stack(torch._foreach_norm(weights, math.inf))).all())

    def record(self, metrics: dict[str, Any], metric: str) -> bool:
        """Record an evaluation of these weights; return True if it is the best so far by this metric.

        Small val splits often tie: among equals, the lower loss wins. The star in the table, the weights that are kept
        and the patience of early stopping all follow this one rule.
        """
        position, value, loss = self.position, metrics[metric], metrics["loss"]
        position.evaluated_step = self.step
        best = position.best_value
        equal = value == best and position.best_loss is not None and loss < position.best_loss
        if not equal and (math.isnan(value) or (best is not None and not METRICS[metric].is_better(value, best))):
            position.evaluations_since_best += 1
            return False
        position.best_step, position.best_value, position.best_loss = self.step, value, loss
        position.evaluations_since_best = 0
        return True

    def has_stopped_early(self, patience: int | None) -> bool:
        """True if the last `patience` evaluations brought no new best."""
        return patience is not None and self.position.evaluations_since_best >= patience

    def why_stopped_early(self, metric: str) -> str:
        """Return a sentence that says why."""
        position, title, number = self.position, METRICS[metric].title, self.position.evaluations_since_best
        last, were = ("last evaluation", "was") if number == 1 else (f"last {number:,} evaluations", "were")
        if position.best_value is None:
            return f"stopped early at step {self.step:,}: in the {last} the {title} was not a number"
        best = f"step {position.best_step:,}, whose {title} is {METRICS[metric].text(position.best_value)}"
        return f"stopped early at step {self.step:,}: the {last} {were} no better than that of {best}"

    @property
    def eval_module(self) -> nn.Module:
        """Return the network that is evaluated and kept: the average, if there is one, with the network's buffers."""
        if self.ema is None:
            return self.module
        copy_buffers(self.ema, self.module)
        return self.ema

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return weights and buffers, by the checkpoint's files."""
        copies = {"ema": None if self.ema is None else self.eval_module, "slow": self.slow}
        modules = {"model": self.module, **{k: v for k, v in copies.items() if v is not None}, **self.further}
        return {name: dict(module.state_dict()) for name, module in modules.items()}

    def refuse_drift(self, processes: Processes) -> None:
        """Raise DriftedError if the weights or buffers of two processes differ. All processes call it."""
        if processes.world_size == 1:
            return
        named = [(f"{file}: {name}", t) for file, tensors in self.tensors().items() for name, t in tensors.items()]
        sums = processes.from_all(torch.stack([_checksum(tensor) for _, tensor in named]).tolist())
        for index, (name, _) in enumerate(named):
            for rank, theirs in enumerate(sums):
                if theirs[index] != sums[0][index]:
                    raise DriftedError(
                        f"at step {self.step} the processes have drifted apart: the first tensor that differs, between "
                        f"rank 0 and rank {rank}, is {name!r}. Some code draws random numbers or keeps state in "
                        "each process separately, such as a model or optimizer with its own generator or attributes; "
                        "or the machines have different processors, which round differently. The processes agreed at "
                        "the last checkpoint."
                    )

    def optimizer_state(self) -> dict[str, Any]:
        """Return the state of the optimizer and loss scale, for torch.save."""
        scaler = {"scaler": self.scaler.state_dict()} if self.scaler is not None else {}
        return {"optimizer": self.optimizer.state_dict(), **scaler}

    def restore(
        self, tensors: dict[str, dict[str, torch.Tensor]], optimizer_state: dict[str, Any], position: dict[str, Any]
    ) -> None:
        """Load a saved state. Raises ValueError if the optimizer's state has another memory layout."""
        load_weights(self.module, tensors["model"])
        for name, copied in (("ema", self.ema), ("slow", self.slow)):
            if copied is not None:
                load_weights(copied, tensors[name])
        for name, module in self.further.items():
            load_weights(module, tensors[name])
        self.statistics.adopt()
        self.optimizer.load_state_dict(optimizer_state["optimizer"])
        _check_strides(self.optimizer)
        if self.scaler is not None:
            self.scaler.load_state_dict(optimizer_state["scaler"])
        self.position = Position(**position)

    def position_dict(self) -> dict[str, Any]:
        """Return the position, for JSON."""
        return asdict(self.position)


def build_state(
    config: Config,
    data: Data,
    objective: Objective,
    acceleration: Acceleration,
    run: RunFolder,
    with_init_from: bool = True,
) -> TrainState:
    """Return the state before the first step, on the device. Weights are drawn on the CPU, so that devices agree.

    with_init_from: False for a resumed run, which gets its weights from its checkpoint.
    """
    seed_torch(torch.device("cpu"), config.train.seed, "init")
    module = build_model(config.model, len(data.class_names), data.image_size)
    if with_init_from:
        load_first_weights(module, config, data, run)
    convert(module, acceleration.dtype, acceleration.device)
    tried = try_model(module, config.model.name, len(data.class_names), data.image_size, objective.classifies)
    if config.train.sync_batchnorm and run.processes.world_size > 1:
        module = with_sync_batchnorm(module)
    ema = build_copy(module) if config.train.ema_decay is not None else None
    slow = build_copy(module) if config.optim.lookahead is not None else None
    further = _build_further(config, objective, module, acceleration)
    groups = group_parameters(config.optim, module, further)
    optimizer = build_optimizer(groups)
    until = frozen_until(config.model, module, len(data.class_names))
    if acceleration.scaler is not None or until:
        start_momenta(optimizer)
    # Not in the copies, which are never trained.
    if config.train.precision == "bf16" and acceleration.device.type == "cpu":
        speed_up_depthwise(module)
    if config.train.checkpoint_activations:
        recompute_activations(module, config.model.name, data.image_size, tried.moving)
    return TrainState(
        module=module,
        # Deterministic sums do without DDP; one process does not need it.
        model=acceleration.prepare(
            module,
            distributed=not config.train.deterministic,
            # A user's code may leave out a part of the model in some passes only.
            all_used=objective.classifies and ":" not in config.model.name and not tried.unused,
        ),
        optimizer=optimizer,
        statistics=BatchNormStatistics(
            module,
            *(own for own in further.values() if is_trained(own)),
            moving=[module.get_buffer(name) for name in tried.moving],
            keep_all=config.model.freeze_statistics,
        ),
        scaler=acceleration.scaler,
        ema=acceleration.prepare_for_evaluation(ema) if ema is not None else None,
        slow=slow,
        groups=groups,
        further=further,
        frozen_until=until,
    )


def is_trained(module: nn.Module) -> bool:
    """True if any of the module's parameters requires a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def _build_further(
    config: Config, objective: Objective, module: nn.Module, acceleration: Acceleration
) -> dict[str, nn.Module]:
    """Return the objective's modules, on the device. Raises UsageError, see `named_modules`."""
    seed_torch(torch.device("cpu"), config.train.seed, "objective")
    further = named_modules(config.objective, objective, module)
    for own in further.values():
        convert(own, acceleration.dtype, acceleration.device)
        own.train(is_trained(own))
        acceleration.prepare_for_evaluation(own)
    return further


def named_modules(config: ObjectiveConfig, objective: Objective, module: nn.Module) -> dict[str, nn.Module]:
    """Return the objective's modules. Raises UsageError for a name that cannot be that of a file in a checkpoint."""
    further = objective.modules(module)
    for name in further:
        if name in RESERVED or not name.isidentifier():
            raise UsageError(
                f"objective.name={config.name} calls a module {name!r}: use letters, digits and _, and "
                f"none of {', '.join(RESERVED)}."
            )
    return further


def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor's bits as integers, int64 (), on its device."""
    flat = tensor.detach().contiguous().flatten()
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return flat.view(sizes.get(flat.element_size(), torch.uint8)).sum(dtype=torch.int64)


def _of_longer(tensor: torch.Tensor, strides: Sequence[int]) -> list[int]:
    """Return the strides of dimensions longer than 1: the others mean nothing, and autograd leaves them as they are."""
    return [stride for stride, size in zip(strides, tensor.shape, strict=True) if size > 1]


def _check_strides(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if a momentum's strides differ from its weight's: fused optimizers would silently go wrong."""
    for parameter, state in optimizer.state.items():
        expected = torch.empty_like(parameter, device="meta").stride()
        for name, value in state.items():
            is_like_parameter = isinstance(value, torch.Tensor) and value.ndim and value.shape == parameter.shape
            if is_like_parameter and _of_longer(value, value.stride()) != _of_longer(value, expected):
                raise ValueError(f"the optimizer's {name} has strides {value.stride()}, its parameter {expected}")
