"""Where every random draw of a run comes from: a seed, a purpose and a position, never a rank.

A draw is keyed by a 64-bit BLAKE2 hash of `(seed, purpose, counters)`. So it does not matter which
process draws, in which order, or what was drawn before; and `(seed 0, epoch 1)` has nothing to do with
`(seed 1, epoch 0)`, which `seed + epoch` would make equal.

| purpose        | counters                                         | draws                                |
|----------------|--------------------------------------------------|--------------------------------------|
| "order"        | epoch                                            | the permutation of the epoch         |
| "augment KIND" | step                                             | numbers of a kind, a global batch's  |
| "sample"       | position in the stream of training images        | transforms of a single image         |
| "model"        | step, index of the micro-batch in the global one | dropout, stochastic depth            |
| "init"         |                                                  | the weights                          |
| "split"        |                                                  | what is held out                     |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def key(seed: int, purpose: str, *counters: int) -> int:
    """A well-mixed 63-bit number for this purpose and position (63: what every library takes as a seed)."""
    text = f"{seed}:{purpose}:{':'.join(map(str, counters))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A NumPy generator for this purpose and position."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(key(seed, purpose, *counters)))


def seed_torch(device: torch.device, seed: int, purpose: str, *counters: int) -> None:
    """Point the global generators of the CPU and of `device`, which dropout and init use, at this position.

    `torch.manual_seed` would do, but visits every device and costs 60 µs; this costs 1 µs on a CPU.
    """
    import torch

    number = key(seed, purpose, *counters)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def seed_libraries(seed: int, purpose: str, *counters: int) -> None:
    """Point the CPU's global generators of torch, Python and NumPy, which transforms use, at this position: 11 µs."""
    import random

    import numpy as np
    import torch

    number = key(seed, purpose, *counters)
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


@contextmanager
def global_state_kept() -> Iterator[None]:
    """What is drawn inside from the generators of `seed_libraries` changes nothing for those who draw afterwards."""
    import random

    import numpy as np
    import torch

    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
