"""Reads everything that the page of a run shows from its folder; whatever is missing there is empty here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distcls.config.loading import read_config
from distcls.config.settings import Config
from distcls.errors import DiskError, UsageError
from distcls.report.counting import confusion_matrix
from distcls.runs.class_names import read_class_names
from distcls.runs.results import EXPLAINED, Predictions, Sheet, load_predictions, load_sheets
from distcls.runs.status import SETTLED, read_object, read_status, state_of
from distcls.runs.tracking.metrics_file import read_metrics


@dataclass(frozen=True)
class RunFacts:
    """The contents of a run folder."""

    dir: Path
    state: str | None
    status: Mapping[str, Any]
    config: Config | None
    """None if this version of distcls cannot read it."""
    config_text: str
    class_names: list[str]
    metrics: Mapping[str, Mapping[str, Any]]
    """metrics.json, by split."""
    rows: Sequence[Mapping[str, Any]]
    """Of metrics.csv."""
    kept_step: int | None
    split: str | None
    """The split of the predictions: test, or val."""
    found: Predictions | None
    confusion: np.ndarray | None
    sheets: Mapping[str, Sheet]
    model: Mapping[str, Any]
    left_out: Mapping[str, str]
    """Why the report lacks a part, by its name."""
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    temperature: float

    @property
    def name(self) -> str:
        """Return the run's name."""
        return self.dir.resolve().name

    @property
    def measured(self) -> Mapping[str, Any]:
        """Return the metrics of the split with the predictions; empty for a run that has not finished."""
        return self.metrics.get(self.split or "", {})

    def of_current_weights(self) -> RunFacts:
        """Return the facts, without results if the run has not finished: they are of before it was extended."""
        if self.state in SETTLED:
            return self
        sheets = {name: sheet for name, sheet in self.sheets.items() if name == "train_batch"}  # needs no weights
        return replace(self, metrics={}, split=None, found=None, confusion=None, sheets=sheets, temperature=1.0)


def read_run(run_dir: Path) -> RunFacts:
    """Return the facts of a run, finished or not. Raises DiskError if its results do not fit together."""
    class_names = read_class_names(run_dir)
    split = next((name for name in ("test", "val") if (run_dir / "predictions" / f"{name}.npz").exists()), None)
    found = None if split is None else load_predictions(run_dir, split)
    explained = read_object(run_dir / EXPLAINED)
    sheets = load_sheets(run_dir)
    if found is not None:
        _check(run_dir, found, sheets, len(class_names))
    return RunFacts(
        dir=run_dir,
        state=state_of(run_dir),
        status=read_status(run_dir),
        config=_config(run_dir),
        config_text=_text(run_dir / "config.yaml"),
        class_names=class_names,
        metrics=read_object(run_dir / "metrics.json"),
        rows=read_metrics(run_dir / "metrics.csv"),
        kept_step=read_object(run_dir / "kept.json").get("step"),
        split=split,
        found=found,
        confusion=None if found is None else confusion_matrix(found, len(class_names)),
        sheets=sheets,
        model=explained.get("model") or {},
        left_out=explained.get("left_out") or {},
        data=read_object(run_dir / "data_report.json"),
        environment=read_object(run_dir / "env.json"),
        temperature=float(read_object(run_dir / "model" / "preprocessing.json").get("temperature", 1.0)),
    )


def _check(run_dir: Path, found: Predictions, sheets: Mapping[str, Sheet], num_classes: int) -> None:
    ids = np.concatenate([found.labels, found.preds])
    places = [place for sheet in sheets.values() for place in sheet.places]
    if len(ids) and not 0 <= ids.min() <= ids.max() < num_classes:
        raise DiskError(
            f"{run_dir / 'predictions'} has classes that classes.json does not name: one of them is damaged."
        )
    if places and not 0 <= min(places) <= max(places) < len(found.labels):
        raise DiskError(f"{run_dir / 'pictures'} shows images that predictions/ does not have: one of them is damaged.")


def _config(run_dir: Path) -> Config | None:
    try:
        return read_config(run_dir / "config.yaml")
    except (OSError, UsageError):
        return None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
