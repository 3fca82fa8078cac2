"""Seeds every random draw of a run by a seed, a purpose and a position, never by a rank.

The key of a draw is a 64-bit BLAKE2 hash of `(seed, purpose, counters)`. So it does not matter which
process draws, in which order, or what was drawn before; and `(seed 0, epoch 1)` is unrelated to
`(seed 1, epoch 0)`, which `seed + epoch` would make equal.

| purpose        | counters                                         | draws                                |
|----------------|--------------------------------------------------|--------------------------------------|
| "order"        | epoch                                            | the permutation of the epoch         |
| "augment KIND" | step                                             | one kind of numbers, global batch    |
| "augment KIND, view N" | step                                     | the same for another view            |
| "sample"       | position in the stream of training images        | transforms of a single image         |
| "model"        | step, index of the micro-batch in the global one | dropout, stochastic depth            |
| "optimizer"    | step                                             | noise that an optimizer adds         |
| "objective"    |                                                  | its modules' initial weights         |
| "init"         |                                                  | the model's initial weights          |
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from distcls.plan.keys import key


def seed_torch(device: torch.device, seed: int, purpose: str, *counters: int) -> None:
    """Seed the global generators of the CPU and of `device`, which dropout and init use, for this position.

    `torch.manual_seed` would also work, but it visits every device and takes 60 µs; this takes 1 µs on a CPU.
    """
    number = key(seed, purpose, *counters)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def seed_everything(device: torch.device, seed: int, purpose: str, *counters: int) -> None:
    """Do what `seed_torch` does, and seed Python's and NumPy's global generators, which a model may use: 12 µs."""
    seed_torch(device, seed, purpose, *counters)
    number = key(seed, purpose, *counters)
    random.seed(number)
    np.random.seed(number % 2**32)


def seed_libraries(seed: int, purpose: str, *counters: int) -> None:
    """Seed the global CPU generators of torch, Python and NumPy, which transforms use, for this position: 11 µs."""
    number = key(seed, purpose, *counters)
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


@contextmanager
def global_state_kept() -> Iterator[None]:
    """Restore the generators of `seed_libraries` when the block ends, so that draws inside it affect no later ones."""
    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
