"""Keeps buffers that forward passes update, such as BatchNorm's running statistics, the same on all processes.

A forward pass would update them once per micro-batch, in each process separately. Here they change once a step, by
the mean over the micro-batches of the global batch, so they are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distcls.errors import UsageError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class BatchNormStatistics:
    """Running statistics that change once a step, by the mean over the micro-batches that computed them.

    Between steps, and whenever a forward pass begins, the model's buffers hold the true running statistics: a
    BatchNorm in evaluation mode uses them, and one that does not run keeps them. In training, each BatchNorm has
    momentum 1, so that after a pass its buffers hold the statistics of that micro-batch: call `read` after each pass.
    Its own counter, num_batches_tracked, shows whether it ran in training mode, without waiting for the device.

    `moving` are other floating-point and integer buffers that a forward pass changes (models/trial.py finds them):
    each changes by its mean change over all micro-batches, which for a running mean is the same rule.
    `keep_all` leaves every BatchNorm of the first module in evaluation mode.
    """

    def __init__(self, *modules: nn.Module, moving: Sequence[torch.Tensor] = (), keep_all: bool = False) -> None:
        self.modules, self.keep_all = modules, keep_all
        layers = self._layers()
        self.frozen = [layer for layer, is_frozen in layers if is_frozen]
        self.layers = [layer for layer, is_frozen in layers if not is_frozen]
        self.buffers: list[torch.Tensor] = []
        for layer in self.layers:
            assert layer.running_mean is not None and layer.running_var is not None
            self.buffers += [layer.running_mean, layer.running_var]
        self.moving = list(moving)
        self.counters = [layer.num_batches_tracked for layer in self.layers if layer.num_batches_tracked is not None]
        self.modes: list[bool] = []
        self.parts = [part for module in modules for part in module.modules()]
        momenta = [layer.momentum for layer in self.layers]
        self.has_averages = None in momenta
        self.adopt()
        self.momenta = torch.tensor([momentum or 0.0 for momentum in momenta]).to(self.running)
        self.is_average = torch.tensor([momentum is None for momentum in momenta], device=self.running.device)
        for layer in self.layers:
            layer.momentum = 1.0

    def adopt(self) -> None:
        """Take what the model's buffers hold (fresh, or from a checkpoint) as the true statistics."""
        self.running = torch.cat(self.buffers) if self.buffers else torch.empty(0)
        self.pieces = self.running.split([buffer.numel() for buffer in self.buffers])
        self.steps = torch.stack(self.counters) if self.counters else torch.empty(0, dtype=torch.long)
        per_layer = [layer.num_features * 2 for layer in self.layers]
        owner = torch.arange(len(self.layers)).repeat_interleave(torch.tensor(per_layer, dtype=torch.long))
        self.owner = owner.to(self.running.device)  # which layer each entry of `running` belongs to
        self.kept = [buffer.clone() for buffer in self.moving]

    def look_for_frozen(self) -> None:
        """Find out again which layers are frozen, after model.freeze_until has changed what is trained."""
        self.frozen = [layer for layer, is_frozen in self._layers() if is_frozen]
        self.modes = []

    def _layers(self) -> list[tuple[_BatchNorm, bool]]:
        """Return the layers with running statistics, and whether each is frozen."""
        return [
            (layer, is_frozen or (self.keep_all and place == 0))
            for place, module in enumerate(self.modules)
            for layer, is_frozen in _tracking_layers(module)
        ]

    def read(self) -> list[torch.Tensor]:
        """Return the statistics of the last micro-batch, for the caller to sum: nothing, or one flat vector.

        It holds the statistics of the layers that ran in training mode, the changes of `moving`, and for each layer 1
        if it ran, else 0. The buffers are reset to their true values.
        """
        if not self.buffers and not self.moving:
            return []
        flat = []
        if self.buffers:
            ran = (torch.stack(self.counters) - self.steps).clamp_(0, 1).to(self.running.dtype)
            flat = [torch.cat(self.buffers).mul_(ran[self.owner]), ran]
            torch._foreach_copy_(self.buffers, self.pieces)
            torch._foreach_copy_(self.counters, self.steps.unbind())
        if self.moving:
            flat += [(now - before).flatten() for now, before in zip(self.moving, self.kept, strict=True)]
            torch._foreach_copy_(self.moving, self.kept)
        return [torch.cat(flat)]

    @torch.no_grad()
    def update(self, sums: torch.Tensor, num_micro_batches: int, moved: torch.Tensor | None = None) -> None:
        """Update the true statistics by the sum of what `read` returned for each micro-batch of a step (may be padded).

        moved: () on the device, 0 if fp16 skipped the step, which leaves the statistics alone; None: it was taken.
        """
        if moved is not None:  # as if no layer had run; not a factor of 0, because the sums may be infinite
            sums = torch.where(moved.bool(), sums, torch.zeros_like(sums))
        end = len(self.running)
        if self.buffers:
            counts = sums[end : end + len(self.layers)]
            ran = counts > 0
            self.steps += ran
            rates = self.momenta
            if self.has_averages:
                rates = torch.where(self.is_average, 1 / self.steps.clamp(min=1).to(rates.dtype), rates)
            mean = sums[:end] / counts.clamp(min=1)[self.owner]
            self.running.lerp_(mean.to(self.running.dtype), (rates * ran)[self.owner])
            torch._foreach_copy_(self.buffers, self.pieces)
            torch._foreach_copy_(self.counters, self.steps.unbind())
        offset = end + len(self.layers)
        for buffer, before in zip(self.moving, self.kept, strict=True):
            change = sums[offset : offset + buffer.numel()].view(buffer.shape) / num_micro_batches
            before += change.to(before.dtype) if before.is_floating_point() else change.round().to(before.dtype)
            buffer.copy_(before)
            offset += buffer.numel()

    def training_mode(self) -> None:
        """Call train() at the start, after an evaluation, and whenever anything else has changed the modules' modes.

        A frozen BatchNorm keeps the statistics it came with. Layers that train() itself leaves in evaluation mode stay
        there, as in models that fine-tune with BatchNorm unchanged. Checked before each step, because modes left behind
        would make a step depend on what ran before it.
        """
        if self.modes != [part.training for part in self.parts]:
            for module in self.modules:
                module.train()
            for layer in self.frozen:
                layer.eval()
            self.modes = [part.training for part in self.parts]


def _tracking_layers(module: nn.Module) -> list[tuple[_BatchNorm, bool]]:
    """Return the BatchNorm layers with running statistics, and whether each is frozen."""
    return [
        (layer, _is_frozen(module, name))
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.running_mean is not None
    ]


def _is_frozen(module: nn.Module, name: str) -> bool:
    """True if a layer is not trained; a layer without weights follows the smallest module around it that has some."""
    parameters = list(module.get_submodule(name).parameters())
    if not parameters and name:
        return _is_frozen(module, name.rpartition(".")[0])
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def with_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Return the module with its BatchNorm layers replaced by those whose statistics cover all processes.

    timm's layers contain an activation, which torch's own conversion would leave out. Raises UsageError for other
    layers that do more than BatchNorm.
    """
    from timm.layers import BatchNormAct2d, convert_sync_batchnorm  # takes a second

    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, BatchNormAct2d) and type(layer) not in BATCH_NORMS:
            raise UsageError(
                f"train.sync_batchnorm=true cannot replace {name}, a {type(layer).__name__}: it may do more than "
                "BatchNorm. Leave the setting out; BatchNorm then uses the micro-batches of each process."
            )
    return convert_sync_batchnorm(module)
