"""Sums over the global batch: gradients, BatchNorm statistics and the step's numbers, over micro-batches and ranks.

Both ways of summing give what one process would get from the whole global batch, and both leave the mean
gradient in `parameter.grad`. They differ in the order of float additions:

- `OverlappedSum` (fast): DistributedDataParallel reduces while the backward pass runs. The order depends
  on the number of processes.
- `OrderedSum` (deterministic): a binary tree over the micro-batches of the global batch, of which each rank
  computes a subtree and all ranks together the top. The order, and so every bit, is the same on 1, 2, 4 … processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Forward = Callable[[Any], tuple[torch.Tensor, torch.Tensor]]
"""Runs one micro-batch: the loss to go backward from, and a vector of numbers to be summed."""


class BatchNormStatistics:
    """Running statistics that move once a step, by the mean over all micro-batches of the global batch.

    During training each BatchNorm has momentum 1, so its buffers hold the statistics of the micro-batch
    that has just passed: `read` them after each. The true running statistics live here, and are copied
    into the model when somebody wants to look (`publish`), which training neither needs nor notices.
    """

    def __init__(self, module: nn.Module) -> None:
        layers = {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
        frozen = [name for name in layers if _is_frozen(module, name)]
        self.frozen = [layers.pop(name) for name in frozen]
        self.trained = [layer for layer in module.modules() if layer not in self.frozen]
        self.layers = layers
        self.momenta = [layer.momentum for layer in self.layers.values()]
        pairs = [(layer.running_mean, layer.running_var) for layer in self.layers.values()]
        self.buffers = [buffer for pair in pairs for buffer in pair if buffer is not None]
        self.sizes = [buffer.numel() for buffer in self.buffers]
        self.weights: torch.Tensor | None = None
        self.averaged = torch.empty(0)
        self.adopt()
        for layer in self.layers.values():
            layer.momentum = 1.0

    def adopt(self) -> None:
        """Take what the model's buffers hold (fresh, or from a checkpoint) as the true statistics."""
        self.running = torch.cat(self.buffers) if self.buffers else torch.empty(0)
        counters = [layer.num_batches_tracked for layer in self.layers.values()]
        counted = [counter for counter in counters if counter is not None]
        # On the device, because only the device knows at once if an fp16 step was skipped.
        self.steps = torch.stack(counted).max() if counted else self.running.new_zeros((), dtype=torch.int64)

    def read(self) -> list[torch.Tensor]:
        """The statistics of the last micro-batch, to be summed by the caller: nothing, or one flat vector.

        The buffers are cleared, because momentum 1 multiplies what they held by zero: an infinity of
        an overflowing fp16 step would stay, as NaN, for ever.
        """
        if not self.buffers:
            return []
        flat = torch.cat(self.buffers)
        torch._foreach_zero_(self.buffers)
        return [flat]

    @torch.no_grad()
    def update(self, mean: torch.Tensor, moved: torch.Tensor | None = None) -> None:
        """Move the running statistics towards this step's, given flat as `read` gives them (and filled up).

        moved: () on the device, 0 where fp16 skipped the step, so that they stay; None: it was taken.
        """
        if not self.buffers:
            return
        self.steps += 1 if moved is None else moved.to(self.steps.dtype)
        mean = mean[: len(self.running)].to(self.running.dtype)
        if moved is None:
            self.running.lerp_(mean, self._weights())
        else:  # not a weight of 0: the mean may be infinite
            self.running = torch.where(moved.bool(), self.running.lerp(mean, self._weights()), self.running)

    def _weights(self) -> torch.Tensor:
        """How far each entry moves, flat: the layer's momentum, or 1/steps, a plain average, where that is None."""
        if self.weights is None:
            momenta = [math.nan if momentum is None else momentum for momentum in self.momenta]
            per_buffer = torch.tensor([momentum for momentum in momenta for _ in range(2)], dtype=torch.float64)
            self.weights = per_buffer.repeat_interleave(torch.tensor(self.sizes)).to(self.running)
            self.averaged = self.weights.isnan()
        if None in self.momenta:
            return self.weights.masked_fill(self.averaged, self.steps.to(self.weights.dtype).reciprocal())
        return self.weights

    @torch.no_grad()
    def publish(self, *modules: nn.Module) -> None:
        """Copy the running statistics into the model (and into its average)."""
        pieces = self.running.split(self.sizes)
        for module in modules:
            for name, mean, variance in zip(self.layers, pieces[::2], pieces[1::2], strict=True):
                layer = module.get_submodule(name)
                layer.running_mean.copy_(mean)  # type: ignore[operator,union-attr]
                layer.running_var.copy_(variance)  # type: ignore[operator,union-attr]
                layer.num_batches_tracked.fill_(self.steps)  # type: ignore[operator,union-attr]

    def training_mode(self, module: nn.Module) -> None:
        """module.train(), but a frozen BatchNorm goes on with the statistics it came with.

        Where all is so already it costs less to see that: this is asked before each step, because modes that
        an evaluation, or the model itself, has left behind would make a step depend on what was before it.
        """
        if not all(layer.training for layer in self.trained) or any(layer.training for layer in self.frozen):
            module.train()
            for layer in self.frozen:
                layer.eval()


def _is_frozen(module: nn.Module, name: str) -> bool:
    """Whether a layer is not trained; one without weights goes by the smallest part around it that has some."""
    parameters = list(module.get_submodule(name).parameters())
    if not parameters and name:
        return _is_frozen(module, name.rpartition(".")[0])
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


class OverlappedSum:
    """The fast sum: DistributedDataParallel's reducer, overlapping with the backward pass.

    `no_sync` is its context manager that only accumulates; DDP divides by the number of processes, which
    is undone in the loss. Each parameter without a gradient gets zeros, so that how a batch was cut
    cannot decide whether weight decay and momentum move it.
    """

    def __init__(
        self,
        module: nn.Module,
        statistics: BatchNormStatistics,
        backward: Callable[[torch.Tensor], None],
        no_sync: Callable[[], AbstractContextManager],
        world_size: int,
    ) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.statistics = statistics
        self.backward = backward
        self.no_sync = no_sync
        self.world_size = world_size

    def __call__(self, forward: Forward, micro_batches: Sequence[Any]) -> torch.Tensor:
        """Leave the summed gradients in place; the sum of the numbers and BatchNorm statistics, flat."""
        for parameter in self.parameters:
            parameter.grad = None
        total = self._run(forward, micro_batches[0], last=len(micro_batches) == 1)
        for micro_batch in micro_batches[1:]:
            total += self._run(forward, micro_batch, last=micro_batch is micro_batches[-1])
        if self.world_size > 1:
            dist.all_reduce(total)
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return total

    def _run(self, forward: Forward, micro_batch: Any, last: bool) -> torch.Tensor:
        with nullcontext() if last else self.no_sync():
            loss, numbers = forward(micro_batch)
            self.backward(loss * self.world_size if self.world_size > 1 else loss)
        return torch.cat([numbers, *self.statistics.read()])


class OrderedSum:
    """The deterministic sum: a halving recursion over the micro-batches of the global batch.

    fold(lo, hi) = leaf | fold(lo, mid) + fold(mid, hi). With 2^k processes that divide the number of
    micro-batches, a rank's contiguous block is a subtree of it, for any k. The top of the tree is computed
    shard by shard: the flat vector goes all-to-all, each rank adds the W versions of its shard pairwise, and
    an all-gather brings the shards together, which is the traffic of a ring all-reduce.
    After EasyScale (arXiv 2208.14228), where virtual workers keep bits under elasticity.
    """

    def __init__(
        self,
        module: nn.Module,
        statistics: BatchNormStatistics,
        backward: Callable[[torch.Tensor], None],
        world_size: int,
    ) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.statistics = statistics
        self.backward = backward
        self.world_size = world_size
        # As each parameter lies in memory: a gradient of other strides makes fused optimizers compute nonsense.
        self.strides = [torch.empty_like(p, device="meta").stride() for p in self.parameters]
        self.num_gradients = sum(p.numel() for p in self.parameters)

    def __call__(self, forward: Forward, micro_batches: Sequence[Any]) -> torch.Tensor:
        """Leave the summed gradients in place; the sum of the numbers and BatchNorm statistics, flat."""
        flat = self._fold(forward, micro_batches)
        if self.world_size > 1:
            flat = self._fold_ranks(flat)
        for parameter, gradient in zip(self.parameters, self._gradients(flat), strict=True):
            parameter.grad = gradient
        return flat[self.num_gradients :]

    def _fold(self, forward: Forward, micro_batches: Sequence[Any]) -> torch.Tensor:
        if len(micro_batches) == 1:
            return self._leaf(forward, micro_batches[0])
        middle = len(micro_batches) // 2
        left = self._fold(forward, micro_batches[:middle])
        return left.add_(self._fold(forward, micro_batches[middle:]))

    def _leaf(self, forward: Forward, micro_batch: Any) -> torch.Tensor:
        """Gradients, numbers and statistics of one micro-batch, flat, filled up to a multiple of the world size."""
        for parameter in self.parameters:
            parameter.grad = None
        loss, numbers = forward(micro_batch)
        self.backward(loss)
        rest = torch.cat([numbers, *self.statistics.read()])
        size = self.num_gradients + len(rest)
        flat = self.parameters[0].new_empty(size + -size % self.world_size)
        flat[self.num_gradients : size].copy_(rest)
        flat[size:].zero_()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        torch._foreach_copy_(self._gradients(flat), gradients)
        return flat

    def _gradients(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """A view of the flat vector for each parameter, with the parameter's strides."""
        views, offset = [], 0
        for parameter, stride in zip(self.parameters, self.strides, strict=True):
            views.append(flat.as_strided(parameter.shape, stride, offset))
            offset += parameter.numel()
        return views

    def _fold_ranks(self, flat: torch.Tensor) -> torch.Tensor:
        shards = torch.empty_like(flat)
        dist.all_to_all_single(shards, flat)
        tops = list(shards.chunk(self.world_size))
        while len(tops) > 1:
            tops = [left.add_(right) for left, right in zip(tops[::2], tops[1::2], strict=True)]
        dist.all_gather_into_tensor(flat, tops[0].clone())
        return flat
