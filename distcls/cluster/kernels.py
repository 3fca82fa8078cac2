"""Sets up threads, kernels and memory once per process, before anything is computed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch

from distcls.cluster import slurm
from distcls.cluster.cpu import share_of_cpus
from distcls.cluster.processes import Processes
from distcls.config.settings import TrainConfig
from distcls.plan.randomness import global_state_kept


@contextlib.contextmanager
def chosen_kernels(train: TrainConfig, processes: Processes) -> Iterator[None]:
    """Wrap a run: `choose_kernels`, and afterwards restore torch's settings and random generators."""
    on_gpu = processes.device.type == "cuda"
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    gpu_state = torch.cuda.get_rng_state(processes.device) if on_gpu else None
    with global_state_kept():
        try:
            choose_kernels(train, processes)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic
            torch.set_deterministic_debug_mode(mode)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            if gpu_state is not None:
                torch.cuda.set_rng_state(gpu_state, processes.device)


def choose_kernels(train: TrainConfig, processes: Processes) -> None:
    """Choose threads and kernels: the fastest, or with train.deterministic those that give the same bits every time.

    On a CPU, deterministic mode uses one thread by default: the number of threads decides the order of sums, and must
    not depend on the number of processes. On a GPU, the other mode lets cuDNN time its kernels in the first steps, and
    two starts may choose differently: a resumed run may then round differently from one that was never stopped.
    """
    on_cpu = processes.device.type == "cpu"
    shared = slurm.cpus_per_rank() or share_of_cpus(processes.local_world_size)
    torch.set_num_threads(train.num_threads or (1 if train.deterministic and on_cpu else shared))
    torch.backends.cudnn.benchmark = not train.deterministic
    torch.backends.cudnn.deterministic = (
        True  # time only deterministic ones: within one start, the same step gives the same bits
    )
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, hides nothing here
    if on_cpu:
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Make glibc keep the memory that a step frees: getting it back page by page costs 5 % of a ResNet-9 step."""
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)
