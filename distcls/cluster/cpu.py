"""What the kernel says of the CPU: its name, and whether it computes in bf16. Linux only; others say nothing."""

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
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ISAS_WITHOUT_BF16:
        return False
    flags = {flag for name, value in _lines() if name in ("flags", "Features") for flag in value.split()}
    return not BF16_FLAGS.isdisjoint(flags)


def cpu_name() -> str:
    """Return the name of the model; where the kernel does not say it, only that of the architecture."""
    return next((value for name, value in _lines() if name == "model name"), platform.machine())


def _lines() -> list[tuple[str, str]]:
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
