"""With MLflow's own library and its SQLite stores: a run is one run there, whatever was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distcls.runs.tracking.services.mlflow_server import MLflow
from distcls.runs.tracking.services.service import PROJECT, About

pytestmark = [pytest.mark.extras, pytest.mark.timeout(300)]


def runs_in(uri: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(PROJECT)
    return client.search_runs([experiment.experiment_id]) if experiment else []


def test_a_run_is_one_run_in_each_store(tmp_path: Path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    here, there = (f"sqlite:///{tmp_path / name}.db" for name in ("here", "there"))
    tested = {"time": "2026-01-01T10:00:00+00:00", "step": 9, "split": "test", "accuracy": 0.75, "lr": None}
    state: dict[str, Any] = {}

    def connect(uri: str, state: dict[str, Any]) -> MLflow:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return MLflow(About(tmp_path / "flowers", "flowers", {"train.seed": 0}, "0123456789abcdef", state))

    connect(here, {})  # killed before its id was kept
    connect(here, state)
    first = state["id"]
    assert [run.info.run_id for run in runs_in(here)] == [first]
    connect(there, state)
    assert state["url"] == there and state["id"] != first
    assert [run.info.run_id for run in runs_in(there)] == [state["id"]]
    service = connect(here, state)
    assert state["id"] == first and len(runs_in(here)) == 1, "back in the first store, it continues there"
    for _ in range(2):
        service.end(tested, [])
    client = tracking.MlflowClient(tracking_uri=here)
    (stored,) = client.get_metric_history(first, "accuracy/test")
    assert (stored.step, stored.value, stored.timestamp) == (9, 0.75, 1767261600000)
    assert client.get_run(first).info.status == "FINISHED"
    connect(here, state)
    assert client.get_run(first).info.status == "FINISHED", "a question does not open it again"
    connect(here, state).send([{**tested, "split": "val", "step": 11}], 0)
    assert client.get_run(first).info.status == "RUNNING"
