"""Fixtures shared by all tests: processes that start in a moment, and a small folder of images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are modules: `ranks`, `ledger` and `tiny` are imported by name

from ranks import Ranks


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """Starts distcls on one or more processes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with Ranks(tmp_path) as started:
        yield started
