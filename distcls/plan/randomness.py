"""Where every random draw of a run comes from: a seed, a purpose and a position, never a rank.

A draw is keyed by a 64-bit BLAKE2 hash of `(seed, purpose, counters)`. So it does not matter which
process draws, in which order, or what was drawn before; and `(seed 0, epoch 1)` has nothing to do with
`(seed 1, epoch 0)`, which `seed + epoch` would make equal.

| purpose        | counters                                         | draws                                |
|----------------|--------------------------------------------------|--------------------------------------|
| "order"        | epoch                                            | the permutation of the epoch         |
| "augment KIND" | step                                             | numbers of a kind, a global batch's  |
| "augment KIND, view N" | step                                     | the same for a further view          |
| "sample"       | position in the stream of training images        | transforms of a single image         |
| "model"        | step, index of the micro-batch in the global one | dropout, stochastic depth            |
| "optimizer"    | step                                             | noise that an optimizer adds         |
| "objective"    |                                                  | the weights of its modules           |
| "init"         |                                                  | the weights                          |
| "split"        |                                                  | what is held out                     |
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from distcls.plan.keys import key


def seed_torch(device: torch.device, seed: int, purpose: str, *counters: int) -> None:
    """Point the global generators of the CPU and of `device`, which dropout and init use, at this position.

    `torch.manual_seed` would do, but visits every device and costs 60 µs; this costs 1 µs on a CPU.
    """
    number = key(seed, purpose, *counters)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def seed_everything(device: torch.device, seed: int, purpose: str, *counters: int) -> None:
    """`seed_torch`, and the global generators of Python and NumPy, which a model's own code may use: 12 µs."""
    seed_torch(device, seed, purpose, *counters)
    number = key(seed, purpose, *counters)
    random.seed(number)
    np.random.seed(number % 2**32)


def seed_libraries(seed: int, purpose: str, *counters: int) -> None:
    """Point the CPU's global generators of torch, Python and NumPy, which transforms use, at this position: 11 µs."""
    number = key(seed, purpose, *counters)
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


@contextmanager
def global_state_kept() -> Iterator[None]:
    """What is drawn inside from the generators of `seed_libraries` changes nothing for those who draw afterwards."""
    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
