"""Wraps Accelerate: autocast, the loss scale, DDP and `no_sync`. Only this file builds an Accelerator."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from accelerate.utils import DynamoBackend, GradientAccumulationPlugin, TorchDynamoPlugin
from torch import nn

from distcls.config.settings import TrainConfig
from distcls.errors import UsageError
from distcls.runs.resolution import weights_dtype

AUTOCAST = {"float32": "no", "float64": "no", "bf16": "bf16", "fp16": "fp16"}
"""Accelerate's name for each precision."""


class AnyMethod(nn.Module):
    """A module any of whose methods can be called through what wraps `forward`: DDP, autocast and compile."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor, method: str = "forward") -> Any:
        """Call a method of the module."""
        return self.module(*inputs) if method == "forward" else getattr(self.module, method)(*inputs)


class Acceleration:
    """The device and precision of a run; turns a plain module into what training calls."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.device = device
        self.dtype = weights_dtype(config.precision)
        self.compile = config.compile
        self.gradients_are_reused = isinstance(config.compile, str)
        """True if a pass may write its gradients to where the one before left its own, as CUDA graphs do."""
        self.ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        # Without these plugins, Accelerate would take both from the environment, which the config says nothing about.
        self.accelerator = Accelerator(
            mixed_precision=AUTOCAST[config.precision],
            cpu=device.type == "cpu",
            dynamo_plugin=TorchDynamoPlugin(DynamoBackend.NO),
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[self.ddp],
        )
        kind = self.accelerator.distributed_type
        if kind != DistributedType.NO and not kind.startswith("MULTI_"):
            raise UsageError(
                f"Accelerate is set up for {kind.value}, but distcls trains with DDP: choose multi-GPU or no "
                "distributed training in `accelerate config`, or start with accelerate launch --multi_gpu"
            )

    @property
    def scaler(self) -> Any:
        """The loss scale of fp16; None in other precisions."""
        return self.accelerator.scaler

    def prepare(self, module: nn.Module, distributed: bool, all_used: bool = False) -> nn.Module:
        """Return the module as it is trained: under autocast, behind DDP if `distributed`, and compiled if asked.

        Call any of its methods with model(images, method="features"). Save the plain module: compiling changes the
        names of its weights. all_used: every pass uses all parameters.
        """
        # Looking for unused parameters walks the graph in every step. Otherwise, DDP rearranges its buckets after its
        # first step, and a resumed process would sum in a different order from one that was never killed. The order of
        # two summands does not matter.
        self.ddp.find_unused_parameters = not all_used or self.accelerator.num_processes > 2
        self.prepare_for_evaluation(module)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            model = self.accelerator.prepare_model(AnyMethod(module), evaluation_mode=not distributed)
        if not self.compile:
            return model
        return torch.compile(model, mode=None if self.compile is True else self.compile)  # type: ignore[return-value]

    def prepare_for_evaluation(self, module: nn.Module) -> nn.Module:
        """Return the module itself, on its device, with its forward under autocast. It is never compiled."""
        return self.accelerator.prepare_model(module.to(self.device), evaluation_mode=True)

    def autocast(self) -> AbstractContextManager:
        """Return a context in which a module's other methods also compute in the run's precision."""
        return self.accelerator.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass of a loss, which fp16 scales."""
        self.accelerator.backward(loss)

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        """Return a context in which backward passes only accumulate gradients: DDP does not sum over processes."""
        return self.accelerator.no_sync(model)
