"""Parses sizes as people write them, such as "4 GB"."""

from __future__ import annotations

import re

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)}
_UNITS |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)}


def parse_size(size: str) -> int:
    """Return the bytes in "4 GB" (10^9 each), "1.5GiB" (2^30 each), "500 MB" or "0". Raises ValueError for others."""
    # 18 digits at most: hundreds of them would not fit into a float.
    parts = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([a-z]*)\s*", size.lower())
    if parts is None or parts[2] not in _UNITS:
        raise ValueError(f'{size!r} is not a size: write it as "4 GB", "500 MB" or 0')
    return int(float(parts[1]) * _UNITS[parts[2]])
