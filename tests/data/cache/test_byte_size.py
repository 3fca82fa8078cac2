from __future__ import annotations

import pytest

from distcls.data.cache.byte_size import parse_size
from distcls.errors import UsageError


@pytest.mark.parametrize(
    ("size", "expected"),
    [("4 GB", 4e9), ("500 MB", 5e8), ("0", 0), (0, 0), (123, 123), ("1.5GiB", 1.5 * 2**30), ("10 kb", 1e4), ("7 B", 7)],
)
def test_sizes(size: str | int, expected: float) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["four", "4 XB", "-1", "", "4 GB please"])
def test_nonsense_is_a_usage_error_that_shows_how(size: str) -> None:
    with pytest.raises(UsageError, match="4 GB"):
        parse_size(size)
