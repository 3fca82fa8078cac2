"""Fixtures shared by all tests: processes that start in a moment, and a small folder of images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are modules: `ranks`, `ledger` … are imported by name

from ranks import Ranks, warm_up


@pytest.fixture(scope="session")
def server():
    """The process that ranks are forked from. Its imports take most of a minute on a busy machine."""
    warm_up()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """Tests keep decoded images apart from those of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def ranks(server, tmp_path, monkeypatch):
    """Starts distcls on one or more processes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with Ranks(tmp_path) as started:
        yield started


@pytest.fixture
def write_config(tmp_path, monkeypatch):
    """Writes a config, x.yaml, into the current folder, so that errors say x.yaml:LINE."""
    monkeypatch.chdir(tmp_path)

    def write_yaml(text):
        Path("x.yaml").write_text(text, encoding="utf-8")
        return Path("x.yaml")

    return write_yaml
