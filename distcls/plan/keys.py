"""The key of a random draw: a hash of the seed, a purpose and a position in the run, never of a rank.

Nothing here imports torch: processes that only decode draw too.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, purpose: str, *counters: int) -> int:
    """A well-mixed 63-bit number for this purpose and position (63: what every library takes as a seed)."""
    text = f"{seed}:{purpose}:{':'.join(map(str, counters))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A NumPy generator for this purpose and position."""
    return np.random.Generator(np.random.PCG64(key(seed, purpose, *counters)))
