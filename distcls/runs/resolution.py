"""Resolves what a config leaves open, once, at a run's first start; the result is stored with the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from distcls.cluster.cpu import has_bf16
from distcls.cluster.processes import Processes
from distcls.config.batch_sizes import default_micro_batch_size, fitting_world_sizes, wrong_batches, wrong_default
from distcls.config.settings import Config, TrainConfig
from distcls.config.wording import either, for_another_run
from distcls.errors import UsageError
from distcls.runs.resuming import choices_kept, fill_from


def resolve(
    config: Config,
    stored: Config | None,
    path: Path,
    processes: Processes,
    settle: Callable[[Config], Mapping[str, Any]] = lambda _: {},
) -> Config:
    """Return the config with nothing left open. stored: the config from an earlier start, in the folder `path`.

    settle: chooses on the main process, at the first start, what the config leaves open; returns values by path.
    Raises UsageError for what these processes cannot do.
    """
    if stored is None:
        choices = processes.from_main(lambda: _choices(config, path, settle, processes.device.type))
        config = config.replaced(choices)
        if "train.global_batch_size" in choices:
            for _, problem in wrong_batches(config.train, processes.world_size):
                raise UsageError(problem)
    else:
        refuse_other_cut(config, stored, processes.world_size, path)
        config = fill_from(config, stored).noting(stored.given)
    train = config.train
    precision, micro_batch_size = _precision(train, processes), train.micro_batch_size
    if micro_batch_size is None:
        micro_batch_size = _micro_batch_size(train, processes.world_size)
    return config.replaced({"train.precision": precision, "train.micro_batch_size": micro_batch_size})


def _choices(
    config: Config, path: Path, settle: Callable[[Config], Mapping[str, Any]], device_type: str
) -> Mapping[str, Any]:
    kept = choices_kept(path, config, device_type)
    return settle(config) if kept is None else kept


def _precision(train: TrainConfig, processes: Processes) -> str:
    cuda = processes.device.type == "cuda"
    precision = chosen_precision(train.precision, processes.device)
    if precision == "fp16" and not cuda:
        raise UsageError(
            f"train.precision=fp16 needs a CUDA GPU, but the device is {processes.device.type}: its loss scaling and "
            "kernels exist only for CUDA. Use train.precision=bf16 or float32."
        )
    if precision == "float64" and processes.device.type == "mps":
        raise UsageError("train.precision=float64: Apple's MPS has no float64. Use run.device=cpu or float32.")
    if train.sync_batchnorm and processes.world_size > 1 and not cuda:
        raise UsageError(
            f"train.sync_batchnorm=true needs CUDA GPUs, but these {processes.world_size} processes train on "
            f"{processes.device.type}: torch supports it only on CUDA. Leave it out; BatchNorm then uses the "
            "micro-batches of each process, whose size is train.micro_batch_size."
        )
    return precision


def _micro_batch_size(train: TrainConfig, world_size: int) -> int | None:
    problem = wrong_default(train, world_size)
    if problem is not None:
        raise UsageError(problem)
    return default_micro_batch_size(train, world_size)


def refuse_other_cut(config: Config, stored: Config, world_size: int, path: Path) -> None:
    """Raise UsageError if this number of processes cannot share the micro-batches that the run began with."""
    batch = stored.train.global_batch_size
    micro = stored.train.micro_batch_size or batch
    parts = batch // micro
    if config.train.micro_batch_size is None and parts % world_size:
        fitting = fitting_world_sizes(stored.train, micro)
        raise UsageError(
            f"{path} was started with train.micro_batch_size={micro}, which cannot change: {world_size} processes "
            f"cannot share batches of {parts} × {micro} images. Start {either(fitting)}; or "
            f"{for_another_run(config.run.dir)}, and a smaller train.micro_batch_size for more processes."
        )


def chosen_precision(precision: str, device: torch.device) -> str:
    """Return the precision; for `auto`, the one that suits the device."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and computes_bf16(device) else "float32"


def weights_dtype(precision: str) -> torch.dtype:
    """Return the dtype of the weights in a precision: bf16 and fp16 compute from float32 weights."""
    return torch.float64 if precision == "float64" else torch.float32


def computes_bf16(device: torch.device) -> bool:
    """True if the device supports bf16 in hardware: others emulate it, slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_bf16()


def describe_precision(config: Config, device: torch.device, resumed: bool = False) -> str:
    """Return the precision, and the reason for it where `auto` has a choice.

    resumed: the choice was made before, maybe on another machine.
    """
    precision = config.train.precision
    reason = _reason(config, device, resumed)
    return precision if reason is None else f"{precision} ({reason})"


def _reason(config: Config, device: torch.device, resumed: bool) -> str | None:
    in_hardware, is_given = computes_bf16(device), config.is_given("train.precision")
    name = {"cpu": "CPU", "cuda": "GPU"}.get(device.type)
    if name is None or config.train.precision not in ("float32", "bf16"):
        return None
    if config.train.precision == "bf16":
        if not in_hardware:
            return f"this {name} only emulates it{'' if resumed else ': train.precision=float32 is faster'}"
        if name == "GPU":
            return "this GPU has it in hardware"
        return None if is_given else "this CPU has it in hardware, and a step of this network is faster in it"
    if name == "GPU":
        return None if in_hardware else "this GPU has no bf16 in hardware"
    if is_given or not in_hardware:
        return None
    if config.train.deterministic:
        return "train.precision=bf16 would use this CPU's bf16 hardware"
    if resumed:
        return "as when this run first started"
    if config.model.head_only:
        return "only the head is trained, and bf16 would not be faster"
    return "this CPU has bf16 in hardware, but a step of this network is not clearly faster in it"
