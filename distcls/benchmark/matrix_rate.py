"""Measures what a device reaches in large matrix products, which bounds what any network reaches on it."""

from __future__ import annotations

import time

import torch

from distcls.inference.latency import wait_for_device

SIZES = {"cpu": 1024, "cuda": 8192, "mps": 4096}
"""Rows and columns of the matrices."""

REPEATS = 8


def matrix_rate(device: torch.device, precision: str) -> float:
    """Return FLOPs per second (a multiply-add counts as 2) of the fastest of a few products in a run's precision."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "float64": torch.float64}.get(precision, torch.float32)
    size = SIZES.get(device.type, SIZES["cpu"])
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    fastest = min(_seconds(left, right, device) for _ in range(REPEATS))
    return 2 * size**3 / fastest


def _seconds(left: torch.Tensor, right: torch.Tensor, device: torch.device) -> float:
    wait_for_device(device)
    start = time.perf_counter()
    torch.mm(left, right)
    wait_for_device(device)
    return time.perf_counter() - start
