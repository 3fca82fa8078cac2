"""What Accelerate does for a run: autocast, the loss scale, DDP and `no_sync`. Only this file builds an Accelerator."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn

from distcls.config.settings import TrainConfig

AUTOCAST = {"float32": "no", "float64": "no", "bf16": "bf16", "fp16": "fp16"}
"""Accelerate's name of each precision; bf16 and fp16 compute over float32 weights."""


class AnyMethod(nn.Module):
    """A module of which any method can be called through what wraps `forward`: DDP, autocast and compile."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor, method: str = "forward") -> Any:
        """Call a method of the module."""
        return self.module(*inputs) if method == "forward" else getattr(self.module, method)(*inputs)


class Acceleration:
    """The device and precision of a run, and how a plain module becomes what training calls."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.compile = config.compile
        self.ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        self.accelerator = Accelerator(
            mixed_precision=AUTOCAST[config.precision],
            cpu=device.type == "cpu",
            kwargs_handlers=[self.ddp],
        )

    @property
    def scaler(self) -> Any:
        """The loss scale of fp16; None in other precisions."""
        return self.accelerator.scaler

    def prepare(self, module: nn.Module, distributed: bool, all_used: bool = False) -> nn.Module:
        """Return the module as it is trained: under autocast, behind DDP if `distributed`, and compiled if asked.

        Any method of it can be called, model(images, method="features"). What is saved is the plain module: compiling
        would change the names of its weights. all_used: every pass uses all parameters.
        """
        # Looking for unused parameters walks the graph in each step. Unless it does, DDP rearranges its buckets after
        # its first step: a resumed process would then sum in another order than one that was never killed. The order
        # of two summands does not matter.
        self.ddp.find_unused_parameters = not all_used or self.accelerator.num_processes > 2
        self.prepare_for_evaluation(module)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            model = self.accelerator.prepare_model(AnyMethod(module), evaluation_mode=not distributed)
        return torch.compile(model) if self.compile else model  # type: ignore[return-value]

    def prepare_for_evaluation(self, module: nn.Module) -> nn.Module:
        """Return the module itself, on its device; its forward is under autocast from now on. It is never compiled."""
        return self.accelerator.prepare_model(module.to(self.device), evaluation_mode=True)

    def autocast(self) -> AbstractContextManager:
        """Inside, other methods of a module than forward compute in the run's precision too."""
        return self.accelerator.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        """The backward pass of a loss, which fp16 scales."""
        self.accelerator.backward(loss)

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        """Backward passes inside only accumulate gradients: DDP sums none over processes."""
        return self.accelerator.no_sync(model)
