"""Sends a run to MLflow: to the server in MLFLOW_TRACKING_URI, or to mlflow.db beside the run folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from distcls.runs.tracking.metrics_file import Row
from distcls.runs.tracking.rows import numbers_of
from distcls.runs.tracking.services.service import PROJECT, About, missing

MOST_METRICS = 1000
"""Numbers that MLflow takes in one request."""
MOST_SETTINGS = 100
LONGEST_VALUE = 500

SHORT_WAITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Unless the user sets them: rows wait in metrics.csv, so there is no need to insist."""


class MLflow:
    """A run there. A number that is sent twice, with the same step and time, is stored once."""

    def __init__(self, about: About) -> None:
        for name, value in SHORT_WAITS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow.entities import Metric, Param, RunTag  # pyright: ignore[reportMissingImports]
            from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise missing("mlflow", error) from error
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{about.dir.resolve().parent / 'mlflow.db'}"
        self._dir = about.dir
        self._client, self._metric = MlflowClient(tracking_uri=uri), Metric
        if "id" in about.state:
            self._id = about.state["id"]
            self._client.update_run(self._id, status="RUNNING")
        else:
            run = self._client.create_run(self._experiment(), run_name=about.name)
            self._id = about.state["id"] = run.info.run_id
        about.state["url"] = uri
        # MLflow refuses another value for a parameter, but a run may be resumed with other workers, or made longer.
        known = self._client.get_run(self._id).data.params
        settings = {name: str(value)[:LONGEST_VALUE] for name, value in about.settings.items()}
        new = [Param(name, value) for name, value in settings.items() if name not in known]
        for start in range(0, len(new), MOST_SETTINGS):
            self._client.log_batch(self._id, params=new[start : start + MOST_SETTINGS])
        changed = [RunTag(name, value) for name, value in settings.items() if known.get(name, value) != value]
        self._client.log_batch(self._id, tags=changed)
        self._client.log_batch(self._id, tags=[RunTag("distcls.run_dir", str(about.dir.resolve()))])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self._client.create_experiment(name)

    def sent(self) -> int | None:
        """Return None: rows that are sent again change nothing."""
        return None

    def send(self, rows: Sequence[Row], first: int) -> None:
        """Store each number with the step and the time of its row."""
        metrics = [
            self._metric(tag, float(value), int(datetime.fromisoformat(row["time"]).timestamp() * 1000), row["step"])
            for row in rows
            for tag, value in numbers_of(row).items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + MOST_METRICS])

    def end(self, results: Mapping[str, float], files: Sequence[Path]) -> None:
        """Store the files as artifacts. The final metrics are those of its last rows."""
        for path in files:
            folder = path.relative_to(self._dir).parent.as_posix()
            self._client.log_artifact(self._id, str(path), None if folder == "." else folder)
        self._client.set_terminated(self._id, "FINISHED")

    def close(self) -> None:
        """Do nothing: each call has ended when it returns."""
