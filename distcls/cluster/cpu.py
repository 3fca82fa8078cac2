"""Asks the kernel, on Linux, how many CPUs this process may use, and what they can do: bf16, above all."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container: the microseconds of processor time that it may take in each period, and the length of a period."""

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""The flags of CPUs with instructions for bf16: of x86 (AVX-512, AMX) and Arm."""

ISAS_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""The values of ONEDNN_MAX_CPU_ISA that keep oneDNN, which computes convolutions, from using those instructions.

https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html"""


def available_cpus(process: int = 0) -> int:
    """Return how many CPUs a process may use: in a Slurm job or container, fewer than the machine has.

    process: its id; 0 is this process.
    """
    try:
        usable = len(os.sched_getaffinity(process))
    except (AttributeError, OSError):  # on macOS, and for a process that has ended
        usable = os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
    except (OSError, ValueError):
        return usable
    return min(usable, max(int(quota) // int(period), 1)) if quota.isdigit() else usable


def share_of_cpus(num_processes: int) -> int:
    """Return how many CPUs this process should use, if so many were started alike.

    They share what the process that started them may use, but may be bound to some of it, such as to the cores near
    their GPU.
    """
    return max(min(available_cpus(), available_cpus(os.getppid()) // num_processes), 1)


def has_bf16() -> bool:
    """True if the CPU has instructions for bf16 and may use them."""
    return max_isa() not in ISAS_WITHOUT_BF16 and not BF16_FLAGS.isdisjoint(cpu_flags())


def max_isa() -> str:
    """Return the newest instructions that oneDNN may use, as its environment variable says; "" if it does not."""
    return os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()


def cpu_flags() -> frozenset[str]:
    """Return what the CPU can do, in the kernel's words; nothing where the kernel does not say."""
    return _described(CPU_INFO)[1]


def cpu_name() -> str:
    """Return the name of the model; where the kernel does not say it, only that of the architecture."""
    return _described(CPU_INFO)[0] or platform.machine()


@functools.cache
def _described(file: Path) -> tuple[str, frozenset[str]]:
    """Return the name and the flags. Cached, because a machine with many cores takes milliseconds to tell them."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return "", frozenset()
    told = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    names = (value for name, value in told if name == "model name")
    return next(names, ""), frozenset(
        flag for name, value in told if name in ("flags", "Features") for flag in value.split()
    )
