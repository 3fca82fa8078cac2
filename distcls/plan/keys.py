"""Derives the key of a random draw by hashing the seed, a purpose and a position in the run, never a rank.

Nothing here imports torch, because decoding processes draw random numbers too.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, purpose: str, *counters: int) -> int:
    """Return a well-mixed 63-bit number for this purpose and position. All libraries accept 63 bits as a seed."""
    text = f"{seed}:{purpose}:{':'.join(map(str, counters))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a NumPy generator for this purpose and position."""
    return np.random.Generator(np.random.PCG64(key(seed, purpose, *counters)))
