"""Finds images that are in a data set more than once."""

from __future__ import annotations

import numpy as np


def equal_rows(digests: np.ndarray) -> list[np.ndarray]:
    """Return groups of positions of equal rows in uint8 (N, bytes), each sorted; groups are in order of their first."""
    if len(digests) == 0:
        return []
    keys = np.ascontiguousarray(digests).view(f"V{digests.shape[1]}").ravel()
    order = np.argsort(keys, kind="stable")
    starts = 1 + np.flatnonzero(keys[order][1:] != keys[order][:-1])
    groups = [group for group in np.split(order, starts) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))
