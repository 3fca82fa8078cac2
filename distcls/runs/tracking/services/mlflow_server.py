"""Sends a run to MLflow: to the server in MLFLOW_TRACKING_URI, or to mlflow.db beside the run folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from distcls.runs.tracking.metrics_file import Row
from distcls.runs.tracking.rows import numbers_of
from distcls.runs.tracking.services.service import PROJECT, About, missing

MOST_METRICS = 1000
"""Numbers that MLflow takes in one request."""
MOST_SETTINGS = 100
LONGEST_VALUE = 500

TOKEN = "distcls.token"
"""The tag by which a run is found again if its id was lost."""

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
        is_known = "id" in about.state and about.state.get("url") == uri  # an id means nothing to another server
        self._id = about.state["id"] if is_known else self._find_or_create(about)
        run = self._client.get_run(self._id)
        about.state.update(id=self._id, url=uri)
        self._is_running = run.info.status == "RUNNING"
        # MLflow refuses another value for a parameter, but a run may be resumed with other workers, or made longer.
        known = run.data.params
        settings = {name: str(value)[:LONGEST_VALUE] for name, value in about.settings.items()}
        new = [Param(name, value) for name, value in settings.items() if name not in known]
        for start in range(0, len(new), MOST_SETTINGS):
            self._client.log_batch(self._id, params=new[start : start + MOST_SETTINGS])
        changed = [RunTag(name, value) for name, value in settings.items() if known.get(name, value) != value]
        self._client.log_batch(self._id, tags=changed)
        own = {"distcls.run_dir": str(about.dir.resolve()), TOKEN: about.token}
        self._client.log_batch(self._id, tags=[RunTag(name, value) for name, value in own.items()])

    def _find_or_create(self, about: About) -> str:
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{TOKEN}` = '{about.token}'", max_results=1)
        run = found[0] if found else self._client.create_run(experiment, run_name=about.name, tags={TOKEN: about.token})
        return run.info.run_id

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self._client.create_experiment(name)

    def sent(self) -> int | None:
        """Return None: rows that are sent again change nothing."""
        return None

    def send(self, rows: Sequence[Row], first: int) -> None:
        """Store each number with the step and the time of its row."""
        if not self._is_running:  # it had ended and was extended
            self._client.update_run(self._id, status="RUNNING")
            self._is_running = True
        metrics = [
            self._metric(tag, float(value), int(datetime.fromisoformat(row["time"]).timestamp() * 1000), row["step"])
            for row in rows
            for tag, value in numbers_of(row).items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + MOST_METRICS])

    def end(self, tested: Row | None, files: Sequence[Path]) -> None:
        """Store the numbers of the test split, and the files as artifacts."""
        self.send([tested] if tested else [], 0)
        for path in files:
            folder = path.relative_to(self._dir).parent.as_posix()
            self._client.log_artifact(self._id, str(path), None if folder == "." else folder)
        self._client.set_terminated(self._id, "FINISHED")
        self._is_running = False

    def close(self) -> None:
        """Do nothing: each call has ended when it returns."""
