from __future__ import annotations

import pytest

from distcls.config.byte_size import parse_size


@pytest.mark.parametrize(
    ("size", "expected"),
    [("4 GB", 4e9), ("500 MB", 5e8), ("0", 0), ("123", 123), ("1.5GiB", 1.5 * 2**30), ("10 kb", 1e4), ("7 B", 7)],
)
def test_sizes(size: str, expected: float) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["four", "4 XB", "-1", "", "4 GB please", "9" * 400])
def test_nonsense_is_an_error_that_shows_how(size: str) -> None:
    with pytest.raises(ValueError, match='write it as "4 GB", "500 MB" or 0'):
        parse_size(size)
