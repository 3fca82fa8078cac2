"""One optimizer step: everything from a batch to updated weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distcls.config.metrics import BEST_METRICS
from distcls.config.settings import Config
from distcls.data.loading.micro_batch import MicroBatch
from distcls.errors import UsageError
from distcls.models.freezing import frozen_at, thaw_steps
from distcls.optim.averages import look_ahead, update_ema
from distcls.optim.groups import lrs_at
from distcls.plan.batches import BatchPlan
from distcls.plan.randomness import seed_everything
from distcls.runs.tracking.metrics_file import COLUMNS
from distcls.training.acceleration import Acceleration
from distcls.training.gradients import OrderedSum, OverlappedSum
from distcls.training.objectives.objective import Network, Objective, Terms
from distcls.training.parts import part
from distcls.training.state import TrainState

REPORTED_FIRST = ("loss", "accuracy", "grad_norm")
OF_FP16 = ("loss_scale", "moved")
"""The loss scale, and 1 if the weights were updated, 0 if a gradient overflowed."""
TAKEN = {"loss", *OF_FP16, "skipped_steps", *COLUMNS} - (set(BEST_METRICS) - {"loss"})
"""Columns of metrics.csv that are not an objective's: it may count a metric, such as accuracy or top5."""


class TrainStep:
    """Calling it with this rank's micro-batches advances the state by one step.

    `names` are the names of the numbers that it returns: REPORTED_FIRST, OF_FP16 in that precision, then the
    objective's other scalars, which are known after the first step.
    """

    def __init__(
        self, config: Config, objective: Objective, state: TrainState, plan: BatchPlan, acceleration: Acceleration
    ) -> None:
        self.config, self.objective, self.state, self.plan = config, objective, state, plan
        self.acceleration, self.device = acceleration, acceleration.device
        self.network = Network(state.module, state.model, acceleration.autocast)
        self.shapes: dict[str, torch.Size] | None = None
        self.reported_first = REPORTED_FIRST if acceleration.scaler is None else (*REPORTED_FIRST, *OF_FP16)
        self.names = self.reported_first
        self.thawed = thaw_steps(state.frozen_until, plan)
        self.all_thawed = max(self.thawed.values(), default=0)
        """The step from which nothing is frozen."""
        self.frozen: frozenset[str] = frozenset()
        self.sum_gradients = self._build_sum()

    def __call__(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor | None:
        """Return the global batch's numbers, in the order of `names`, on the device; None for a step in skip_steps.

        Nothing waits for the device.
        """
        state, train = self.state, self.config.train
        if state.step in train.skip_steps:
            self._look_ahead()
            state.position.step += 1
            return None
        frozen = frozen_at(state.step, self.thawed) if state.step < self.all_thawed else frozenset[str]()
        if frozen != self.frozen:
            self._freeze(frozen)
        state.statistics.training_mode()
        sums = self.sum_gradients(self._forward, micro_batches)
        with part("optimizer"):
            norm = self._clip()
            of_fp16 = self._update()
        means, statistics = self._split(sums)
        moved = of_fp16.get("moved")
        state.statistics.update(statistics, self.plan.num_micro_batches, moved)
        self._look_ahead()
        if state.ema is not None and train.ema_decay is not None:
            update_ema(state.ema, state.module, train.ema_decay, state.step, moved)
        self._update_objective(means, moved)
        state.position.step += 1
        return self._reported({**means, **of_fp16, "grad_norm": norm})

    def _look_ahead(self) -> None:
        if self.state.slow is not None and self.config.optim.lookahead is not None:
            look_ahead(
                self.state.slow,
                self.state.module,
                self.config.optim.lookahead,
                self.state.step + 1,
                self.plan.total_steps,
            )

    def _freeze(self, frozen: frozenset[str]) -> None:
        """Train all of the network but these parameters from now on.

        Without a gradient, the backward pass ends above them, and the optimizer leaves them and their momenta alone.
        """
        self.frozen = frozen
        for name in self.thawed:
            parameter = self.state.module.get_parameter(name)
            parameter.requires_grad_(name not in frozen)
            parameter.grad = None
        self.state.statistics.look_for_frozen()
        self.sum_gradients = self._build_sum()

    def _build_sum(self) -> OrderedSum | OverlappedSum:
        """Return the sum over the gradients of what is trained now."""
        state, acceleration = self.state, self.acceleration
        further = list(state.further.values())
        if self.config.train.deterministic:
            return OrderedSum(state.module, state.statistics, acceleration.backward, self.plan.world_size, further)
        return OverlappedSum(
            state.module,
            state.statistics,
            acceleration.backward,
            lambda: acceleration.no_sync(state.model),
            self.plan.world_size,
            further,
            with_ddp=not self.frozen,
            with_reused=acceleration.gradients_are_reused,
        )

    def _forward(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the micro-batch's part of the mean loss, and its sums. Seeds depend on its place in the run."""
        seed_everything(self.device, self.plan.seed, "model", self.state.step, micro_batch.index)
        terms = self.objective(self.network.begin(), micro_batch, self.state.step)
        self._check(terms, micro_batch)
        losses = terms.losses * micro_batch.weights() if micro_batch.went_bad else terms.losses
        loss = losses.sum()
        sums = [value.detach().to(loss.dtype).flatten() for value in terms.sums.values()]
        return loss / self.plan.global_batch_size, torch.cat([loss.detach().reshape(1), *sums])

    def _check(self, terms: Terms, micro_batch: MicroBatch) -> None:
        """Raise UsageError unless losses and sums have the same layout in all steps and processes."""
        if terms.losses.shape != micro_batch.labels.shape:
            raise UsageError(
                f"objective.name={self.config.objective.name} returned losses of shape {tuple(terms.losses.shape)}, "
                f"expected one number per image, {tuple(micro_batch.labels.shape)}: do not average them."
            )
        shapes = {name: value.shape for name, value in terms.sums.items()}
        if self.shapes is None:
            taken = TAKEN & shapes.keys()
            if taken:
                raise UsageError(
                    f"objective.name={self.config.objective.name} named a sum {min(taken)!r}, but metrics.csv has a "
                    "column of that name for another number: choose another."
                )
            self.shapes = shapes
            others = [name for name, shape in shapes.items() if not shape and name not in self.reported_first]
            self.names = (*self.reported_first, *others)
        if list(shapes.items()) != list(self.shapes.items()):
            raise UsageError(
                f"objective.name={self.config.objective.name} returned the sums {shapes}, but {self.shapes} in its "
                "first step: return the same names and shapes in the same order, with zeros for missing ones."
            )

    def _split(self, sums: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the means over the global batch by name, "loss" and the objective's; and the rest, for BatchNorm."""
        shapes = {"loss": torch.Size(), **(self.shapes or {})}
        sizes = [shape.numel() for shape in shapes.values()]
        pieces = (sums[: sum(sizes)] / self.plan.global_batch_size).split(sizes)
        means = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return means, sums[sum(sizes) :]

    def _reported(self, numbers: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the numbers in the order of `names`; an accuracy that the objective does not count is NaN."""
        missing = torch.full_like(numbers["grad_norm"], torch.nan)
        return torch.stack([numbers.get(name, missing) for name in self.names])

    def _clip(self) -> torch.Tensor:
        """Return the norm of the whole gradient, before clipping it to max_grad_norm if that is set."""
        if self.state.scaler is not None:
            self.state.scaler.unscale_(self.state.optimizer)
        parameters = self.sum_gradients.parameters
        gradients = [p.grad for p in parameters if p.grad is not None]
        # Like torch.nn.utils.get_total_norm, which sorts by device first and takes twice as long.
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self.config.train.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.train.max_grad_norm, norm)
        return norm

    def _update(self) -> dict[str, torch.Tensor]:
        """Update the weights, unless fp16 overflowed. With fp16, return the numbers of OF_FP16, on the device."""
        state = self.state
        for group, lr in zip(state.optimizer.param_groups, lrs_at(state.step, state.groups, self.plan), strict=True):
            group["lr"] = lr
        seed_everything(self.device, self.plan.seed, "optimizer", state.step)  # some optimizers draw
        if state.scaler is None:
            state.optimizer.step()
            return {}
        one = torch.ones((), device=self.device)
        before = state.scaler.scale(one)  # `get_scale` would wait for the device
        state.scaler.step(state.optimizer)
        state.scaler.update()
        after = state.scaler.scale(one)
        return {"loss_scale": after, "moved": (after >= before).to(after.dtype)}

    @torch.no_grad()
    def _update_objective(self, means: dict[str, torch.Tensor], moved: torch.Tensor | None) -> None:
        """Update the objective's modules, unless fp16 skipped the step."""
        tensors = [tensor for own in self.state.further.values() for tensor in (*own.parameters(), *own.buffers())]
        before = [] if moved is None else [tensor.clone() for tensor in tensors]
        self.objective.update(means, self.state.step)
        if moved is not None:
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(torch.where(moved.bool(), tensor, old))
