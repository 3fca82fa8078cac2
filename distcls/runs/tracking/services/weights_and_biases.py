"""Sends a run to Weights & Biases. WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE … work as everywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from distcls.runs.tracking.metrics_file import Row
from distcls.runs.tracking.rows import numbers_of
from distcls.runs.tracking.services.service import MODEL, PROJECT, About, missing

SECONDS_TO_CONNECT = 30


class WeightsAndBiases:
    """A run there. Its own step is the number of the row, because training and evaluation rows share steps."""

    def __init__(self, about: About) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise missing("wandb", error) from error
        about.state.setdefault("id", about.token[:8])
        mode = os.environ.get("WANDB_MODE") or (None if wandb.api.api_key else "offline")
        self._wandb, self._dir = wandb, about.dir
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=about.state["id"],
            name=about.name,
            dir=str(about.dir),
            config=dict(about.settings),
            resume="allow",
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(init_timeout=SECONDS_TO_CONNECT, console="off", silent=True, disable_git=True),
        )
        self._is_offline = self._run.offline
        about.state["url"] = self._run.url or f"offline: wandb sync {about.dir / 'wandb' / 'offline-run-*'}"
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def sent(self) -> int | None:
        """Return how many rows it has; offline, the library cannot tell."""
        return None if self._is_offline else self._run.step

    def send(self, rows: Sequence[Row], first: int) -> None:
        """Log each row as one step of the service."""
        for place, row in enumerate(rows, start=first):
            self._run.log({"step": row["step"], **numbers_of(row)}, step=place, commit=True)

    def end(self, tested: Row | None, files: Sequence[Path]) -> None:
        """Put the numbers of the test split into the summary; upload plots as pictures, the model as an artifact."""
        self._run.summary.update(numbers_of(tested) if tested else {})
        model = self._wandb.Artifact(f"model-{self._run.id}", type="model")
        for path in files:
            name = path.relative_to(self._dir)
            if path.suffix == ".png":
                self._run.summary[f"plots/{path.stem}"] = self._wandb.Image(str(path))
            elif name.parts[0] == MODEL:
                model.add_file(str(path), name=path.name)
            else:
                self._run.save(str(path), base_path=str(self._dir), policy="now")
        self._run.log_artifact(model)

    def close(self) -> None:
        """Wait until the library has sent, or stored, all of it."""
        self._run.finish()
