"""One of the two processes of `distcls doctor`'s self-test, which add numbers as training adds gradients.

`python -m distcls.cluster.all_reduce BACKEND SECONDS`, with torchrun's variables set.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

MEGABYTES = 16


def main(backend: str, seconds: float) -> None:
    """Print how fast the two processes add numbers. Raises if they do not connect within `seconds`."""
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    numbers = torch.ones(MEGABYTES * 250_000, device=device)
    for _ in range(2):  # the first one also connects
        began = time.monotonic()
        dist.all_reduce(numbers)
        total = numbers[-1].item()
    if total != dist.get_world_size() ** 2:
        raise ArithmeticError(f"the sum of ones over {dist.get_world_size()} processes was {total}")
    dist.destroy_process_group()
    print(f"a sum of {MEGABYTES} MB took {1000 * (time.monotonic() - began):,.0f} ms")


if __name__ == "__main__":
    try:
        main(sys.argv[1], float(sys.argv[2]))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {str(error).splitlines()[0]}")
