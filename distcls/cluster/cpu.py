"""Reads the CPU's name and flags from the kernel, on Linux: whether it computes in bf16, above all."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""The flags of CPUs with instructions for bf16: of x86 (AVX-512, AMX) and Arm."""

ISAS_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""The values of ONEDNN_MAX_CPU_ISA that keep oneDNN, which computes convolutions, from using those instructions.

https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html"""


def has_bf16() -> bool:
    """True if the CPU has instructions for bf16 and may use them."""
    return max_isa() not in ISAS_WITHOUT_BF16 and not BF16_FLAGS.isdisjoint(cpu_flags())


def max_isa() -> str:
    """Return the newest instructions that oneDNN may use, as its environment variable says; "" if it does not."""
    return os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()


def cpu_flags() -> set[str]:
    """Return what the CPU can do, in the kernel's words; nothing where the kernel does not say."""
    return {flag for name, value in _lines() if name in ("flags", "Features") for flag in value.split()}


def cpu_name() -> str:
    """Return the name of the model; where the kernel does not say it, only that of the architecture."""
    return next((value for name, value in _lines() if name == "model name"), platform.machine())


def _lines() -> list[tuple[str, str]]:
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
