"""Reads what a run folder says about its run, from a few small files and without torch: for tables of many runs.

The folder may be somebody else's, damaged, or still being written, so whatever is not as expected counts as absent.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcls.config.loading import read_config
from distcls.config.metrics import METRICS
from distcls.config.settings import Config
from distcls.errors import DistclsError
from distcls.files.atomic import read_json
from distcls.runs.status import read_object, read_status, state_of
from distcls.runs.tracking.metrics_file import read_metrics

SPLITS = ("val", "test")

WEIGHTS = Path("model", "model.safetensors")

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""How the names of BatchNorm's statistics end: they are stored with the weights, but are no parameters."""

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; the format allows no more."""

LARGEST_NUMBER = 1e15
"""Anything beyond, infinity and NaN included, is a mistake or an attack."""

STATES = ("finished", "running", "preempted", "failed", "killed")


@dataclass(frozen=True)
class Overview:
    """A run, as far as its folder says."""

    dir: Path
    config: Config
    state: str
    """One of STATES, or "unknown"."""
    reason: str | None
    """Why it ended, if that needs saying."""
    metrics: Mapping[str, Mapping[str, float]]
    """By split and name: those of its best weights or, before it has finished, of its best evaluation so far."""
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    """By split and name: 95 % intervals of the metrics."""
    epoch: float | None
    """How far it got, and …"""
    num_epochs: float | None
    """… how far it was meant to get."""
    seconds: float | None
    """How long it ran, over all starts."""
    num_parameters: int | None
    num_bytes: int | None
    """Size of the weights on disk."""
    device: str | None
    """Such as "2 × cpu"."""
    versions: Mapping[str, str]
    """Of distcls and torch."""
    class_names: Sequence[str]
    fingerprint: str | None
    """Of its images and of how they are split."""
    split_fingerprints: Mapping[str, str]

    @property
    def is_finished(self) -> bool:
        """True if its metrics are final."""
        return self.state == "finished"


def read_overview(run_dir: Path) -> Overview:
    """Return what a run folder says. Raises UsageError if its config.yaml is missing or cannot be read."""
    config = read_config(run_dir / "config.yaml")
    status, environment = read_status(run_dir), read_object(run_dir / "env.json")
    images = read_object(run_dir / "data_report.json")
    state = state_of(run_dir)
    measured = read_object(run_dir / "metrics.json") if state == "finished" else _best_so_far(run_dir, config)
    class_names = _class_names(run_dir / "classes.json")
    of_splits = {split: _mapping(measured.get(split)) for split in SPLITS}
    num_parameters, num_bytes = _size(run_dir / WEIGHTS)
    return Overview(
        dir=run_dir,
        config=config,
        state=state if state in STATES else "unknown",
        reason=_text(status.get("reason")),
        metrics={split: _metrics(values, len(class_names)) for split, values in of_splits.items()},
        intervals={split: _intervals(values) for split, values in of_splits.items()},
        epoch=_epochs(_number(status.get("step")), config, images),
        num_epochs=config.train.num_epochs or _epochs(config.train.num_steps, config, images),
        seconds=_number(status.get("seconds")),
        num_parameters=num_parameters,
        num_bytes=num_bytes,
        device=_device(environment),
        versions=_texts({name: _mapping(environment.get("versions")).get(name) for name in ("distcls", "torch")}),
        class_names=class_names,
        fingerprint=_text(images.get("fingerprint")),
        split_fingerprints=_texts(_mapping(images.get("split_fingerprints"))),
    )


def _best_so_far(run_dir: Path, config: Config) -> dict[str, Any]:
    """Return the evaluation on val that was best, by train.best_metric, as metrics.json would have it."""
    try:
        rows = [row for row in read_metrics(run_dir / "metrics.csv") if row["split"] == "val"]
    except (OSError, DistclsError):
        return {}
    metric = METRICS[config.train.best_metric]
    best: dict[str, Any] = {}
    for row in rows:
        value = row.get(metric.name)
        if value is None or not math.isfinite(value):
            continue  # no later value would be better than NaN
        if not best or metric.is_better(value, best[metric.name]):
            best = row
    return {"val": best}


def _epochs(steps: float | None, config: Config, images: Mapping[str, Any]) -> float | None:
    """Return how many passes over the training images so many steps are."""
    num_images = _number(_mapping(_mapping(images.get("splits")).get("train")).get("num_images"))
    return steps * config.train.global_batch_size / num_images if steps is not None and num_images else None


def _size(weights: Path) -> tuple[int | None, int | None]:
    """Return the number of parameters in a safetensors file, from its header, and its size in bytes."""
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, LARGEST_HEADER)))
        tensors = [(name, tensor) for name, tensor in header.items() if name != "__metadata__"]
        shapes = [tensor["shape"] for name, tensor in tensors if "F" in tensor["dtype"] and not name.endswith(BUFFERS)]
        return sum(map(math.prod, shapes)), weights.stat().st_size
    except (OSError, ValueError, AttributeError, KeyError, TypeError, struct.error):
        return None, None


def _device(environment: Mapping[str, Any]) -> str | None:
    kind, name = _text(environment.get("device")), _text(environment.get("device_name"))
    number = _number(environment.get("world_size")) or 1
    return f"{number:.0f} × {name if name and kind == 'cuda' else kind}" if kind else None


# Whatever is not as expected counts as absent ------------------------------------------------------


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < LARGEST_NUMBER else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _metrics(values: Mapping[str, Any], num_classes: int) -> dict[str, float]:
    found = {name: _number(values.get(name)) for name in METRICS if name != "top5" or num_classes > 5}
    return {name: value for name, value in found.items() if value is not None}


def _intervals(values: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    found = _mapping(values.get("intervals"))
    pairs = {name: found[name] for name in METRICS if isinstance(found.get(name), list) and len(found[name]) == 2}
    return {name: (low, high) for name, (low, high) in pairs.items() if None not in (_number(low), _number(high))}


def _class_names(file: Path) -> list[str]:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else []
