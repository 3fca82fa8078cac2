"""What a config leaves open is settled once, at a run's first start, and stored with it."""

from __future__ import annotations

from pathlib import Path

import torch

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
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
        train.precision = "bf16" if cuda and torch.cuda.is_bf16_supported() else "float32"
    if train.precision == "fp16" and not cuda:
        raise UsageError(
            f"train.precision=fp16 needs a CUDA GPU, and this is {processes.device.type}: its loss scaling and "
            "kernels exist only there. Use train.precision=bf16 or float32."
        )
    if train.precision == "float64" and processes.device.type == "mps":
        raise UsageError("train.precision=float64: Apple's MPS has no float64. Use run.device=cpu or float32.")
    if train.micro_batch_size is None:
        train.micro_batch_size = train.global_batch_size // processes.world_size or None
    return config
