"""A connection that was killed before its id was kept began a run, and the next connection continues that one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distcls.runs.tracking.services.service import About
from distcls.runs.tracking.services.trackio_store import Trackio
from distcls.runs.tracking.services.weights_and_biases import WeightsAndBiases


class Library:
    """What the two services ask of wandb and trackio; it keeps what it is given."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.api = SimpleNamespace(api_key="key")
        self.offline, self.url = False, "https://wandb.example/run"

    def init(self, project: str, **options: Any) -> Library:
        self.begun.append(options)
        return self

    def Settings(self, **options: Any) -> None: ...

    def Image(self, path: str) -> str:
        return path

    def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((values, step))


@pytest.fixture
def library(monkeypatch) -> Library:
    made = Library()
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, made)
    return made


@pytest.mark.parametrize("service, key", [(WeightsAndBiases, "id"), (Trackio, "name")])
def test_two_first_connections_begin_the_same_run(library, tmp_path, service, key):
    for _ in range(2):
        service(About(tmp_path, "flowers", {}, token="0123456789abcdef"))
    service(About(tmp_path, "flowers", {}, token="fedcba9876543210"))
    first, second, other = (begun[key] for begun in library.begun)
    assert first == second != other


def test_trackio_gets_the_results_beside_the_last_row(library, tmp_path):
    """A step of its own would count as a row."""
    service = Trackio(About(tmp_path, "flowers", {}, "0123", {"id": "flowers-1", "rows": 7}))
    tested = {"time": "2026-01-01", "step": 9, "split": "test", "accuracy": 0.75, "lr": None}
    service.end(tested, [Path("plots/curves.png"), Path("metrics.json")])
    assert library.logged == [({"plots/curves": "plots/curves.png", "accuracy/test": 0.75}, 6)]
