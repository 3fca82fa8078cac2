"""What a config leaves open is settled once, at a run's first start, and stored with it."""

from __future__ import annotations

from pathlib import Path

import torch

from distcls.cluster.processes import Processes
from distcls.config.settings import Config, TrainConfig
from distcls.errors import UsageError
from distcls.runs.resuming import fill_from, refuse_other_cut


def resolve(config: Config, stored: Config | None, path: Path, processes: Processes) -> Config:
    """Settle what the config leaves open: once, at the first start; the run folder, at `path`, has it `stored`.

    Raises UsageError for what these processes cannot do.
    """
    if stored is not None:
        refuse_other_cut(config, stored, processes.world_size, path)
        config = fill_from(config, stored)
    train = config.train
    cuda = processes.device.type == "cuda"
    if train.precision == "auto":
        train.precision = "bf16" if cuda and computes_bf16() else "float32"
    if train.precision == "fp16" and not cuda:
        raise UsageError(
            f"train.precision=fp16 needs a CUDA GPU, and this is {processes.device.type}: its loss scaling and "
            "kernels exist only there. Use train.precision=bf16 or float32."
        )
    if train.precision == "float64" and processes.device.type == "mps":
        raise UsageError("train.precision=float64: Apple's MPS has no float64. Use run.device=cpu or float32.")
    if train.sync_batchnorm and processes.world_size > 1 and not cuda:
        raise UsageError(
            f"train.sync_batchnorm=true needs CUDA GPUs, and these {processes.world_size} processes train on "
            f"{processes.device.type}: torch computes it only there. Leave it out; BatchNorm then sees the "
            "micro-batches of each process, and train.micro_batch_size says how large these are."
        )
    if train.micro_batch_size is None:
        train.micro_batch_size = train.global_batch_size // processes.world_size or None
    return config


def computes_bf16() -> bool:
    """True if this process's GPU computes bf16 in hardware: older ones emulate it, slower than float32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def describe_precision(train: TrainConfig, device: torch.device) -> str:
    """Return the precision, with the reason on a GPU for which `auto` had a choice."""
    if device.type != "cuda" or train.precision not in ("float32", "bf16"):
        return train.precision
    if computes_bf16():
        return "bf16 (this GPU has it in hardware)" if train.precision == "bf16" else train.precision
    if train.precision == "bf16":
        return "bf16 (this GPU only emulates it: train.precision=float32 is faster)"
    return "float32 (this GPU has no bf16 in hardware)"
