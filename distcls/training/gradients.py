"""Sums over the global batch: gradients, BatchNorm statistics and the step's numbers, over micro-batches and ranks.

Both ways of summing give what one process would get from the whole global batch, and leave the mean gradient in
`parameter.grad`. They differ in the order of float additions:

- `OverlappedSum` (fast): DistributedDataParallel reduces while the backward pass runs. The order depends
  on the number of processes.
- `OrderedSum` (deterministic): a binary tree over the micro-batches of the global batch. Each rank computes a
  subtree, and all ranks together the top. The order, and so every bit, is the same on 1, 2, 4 … processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from distcls.training.parts import part
from distcls.training.statistics import BatchNormStatistics

Forward = Callable[[Any], tuple[torch.Tensor, torch.Tensor]]
"""Runs one micro-batch and returns the loss for the backward pass and a vector of numbers to sum."""


class OverlappedSum:
    """The fast sum: DistributedDataParallel's reducer, overlapping with the backward pass.

    `no_sync` is DDP's context manager that only accumulates. DDP divides by the number of processes, which the loss
    undoes. Each parameter without a gradient gets zeros, so that how a batch was split cannot decide whether weight
    decay and momentum move it. DDP wraps only `module`: gradients of `further` modules, which are small (a projector),
    are summed with the numbers after the backward pass. So are all gradients without DDP, which was built for
    parameters some of which are frozen now. `with_reused`: a pass may overwrite the gradients of the one before, as
    CUDA graphs do, so those of each parameter are copied before others are added to them.
    """

    def __init__(
        self,
        module: nn.Module,
        statistics: BatchNormStatistics,
        backward: Callable[[torch.Tensor], None],
        no_sync: Callable[[], AbstractContextManager],
        world_size: int,
        further: Sequence[nn.Module] = (),
        with_ddp: bool = True,
        with_reused: bool = False,
    ) -> None:
        self.with_reused = with_reused
        self.parameters = [p for m in (module, *further) for p in m.parameters() if p.requires_grad]
        self.with_ddp = with_ddp
        self.beside_ddp = (
            [p for m in further for p in m.parameters() if p.requires_grad] if with_ddp else self.parameters
        )
        self.statistics = statistics
        self.backward = backward
        self.no_sync = no_sync
        self.world_size = world_size

    def __call__(self, forward: Forward, micro_batches: Sequence[Any]) -> torch.Tensor:
        """Set the summed gradients; return the sums of the numbers and BatchNorm statistics, flat."""
        for parameter in self.parameters:
            parameter.grad = None
        total = self._run(forward, micro_batches[0], last=len(micro_batches) == 1)
        own: set[nn.Parameter] = set()
        for micro_batch in micro_batches[1:]:
            if self.with_reused:
                self._keep_gradients(own)
            total += self._run(forward, micro_batch, last=micro_batch is micro_batches[-1])
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world_size == 1:
            return total
        with part("exchange"):
            return self._reduce(total)

    def _keep_gradients(self, own: set[nn.Parameter]) -> None:
        """Copy the gradients that lie where the next pass may write; `own`: parameters whose gradients do not."""
        for parameter in self.parameters:
            if parameter.grad is not None and parameter not in own:
                parameter.grad = parameter.grad.clone()
                own.add(parameter)

    def _reduce(self, total: torch.Tensor) -> torch.Tensor:
        """Return the numbers summed over all processes; also sum the gradients that DDP does not handle."""
        size = len(total)
        gradients = [parameter.grad for parameter in self.beside_ddp if parameter.grad is not None]
        if gradients:
            total = torch.cat([total, *(gradient.flatten() / self.world_size for gradient in gradients)])
        dist.all_reduce(total)
        pieces = total[size:].split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view(gradient.shape))
        return total[:size]

    def _run(self, forward: Forward, micro_batch: Any, last: bool) -> torch.Tensor:
        with nullcontext() if last and self.with_ddp else self.no_sync():
            with part("forward"):
                loss, numbers = forward(micro_batch)
            with part("backward"):
                self.backward(loss * self.world_size if self.world_size > 1 else loss)
        return torch.cat([numbers, *self.statistics.read()])


class OrderedSum:
    """The deterministic sum: a halving recursion over the micro-batches of the global batch.

    fold(lo, hi) = leaf | fold(lo, mid) + fold(mid, hi). With 2^k processes that divide the number of micro-batches,
    each rank's contiguous block is a subtree, for any k. The top of the tree is computed shard by shard: an all-to-all
    distributes the flat vector, each rank adds the W versions of its shard pairwise, and an all-gather collects the
    shards: the traffic of a ring all-reduce. After EasyScale (arXiv 2208.14228), where virtual workers keep results
    bitwise equal when the number of GPUs changes.
    """

    def __init__(
        self,
        module: nn.Module,
        statistics: BatchNormStatistics,
        backward: Callable[[torch.Tensor], None],
        world_size: int,
        further: Sequence[nn.Module] = (),
    ) -> None:
        self.parameters = [p for m in (module, *further) for p in m.parameters() if p.requires_grad]
        self.statistics = statistics
        self.backward = backward
        self.world_size = world_size
        # Each parameter's own strides: a gradient with different ones makes fused optimizers compute nonsense.
        self.strides = [torch.empty_like(p, device="meta").stride() for p in self.parameters]
        self.num_gradients = sum(p.numel() for p in self.parameters)

    def __call__(self, forward: Forward, micro_batches: Sequence[Any]) -> torch.Tensor:
        """Set the summed gradients; return the sums of the numbers and BatchNorm statistics, flat."""
        flat = self._fold(forward, micro_batches)
        if self.world_size > 1:
            with part("exchange"):
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
        """Return one micro-batch's gradients, numbers and statistics, flat, padded to a multiple of the world size."""
        for parameter in self.parameters:
            parameter.grad = None
        with part("forward"):
            loss, numbers = forward(micro_batch)
        with part("backward"):
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
        """Return a view of the flat vector for each parameter, with the parameter's strides."""
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
