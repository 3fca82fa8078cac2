"""Run folders that look as if a run had left them, made in a moment: for tests of what only reads them."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distcls.config.loading import load_config
from distcls.config.yaml_text import to_yaml
from distcls.runs.results import Predictions, save_predictions

IMAGES = 1000
"""Training images of each run, and test images."""

PARAMETERS = {"w": [10, 20], "b.bias": [10]}


def make_run(
    run_dir: Path,
    *settings: str,
    accuracy: float | None = 0.9,
    state: str = "finished",
    right: Sequence[int] | np.ndarray | None = None,
    images: str = "x",
    **status: Any,
) -> Path:
    """Write the folder of a run of ten epochs and return it.

    accuracy: on val and test; None before the first evaluation. right: which test images it gets right, for which
    predictions are stored. images: what to call its test images. status: further entries of status.json.
    """
    run_dir.mkdir(parents=True)
    config = load_config(None, ["preset=none", "train.num_epochs=10", "train.global_batch_size=100", *settings])
    (run_dir / "config.yaml").write_text(to_yaml(config))
    write(run_dir, "status", {"state": state, "step": 100, "reason": None, "seconds": 75.0, **status})
    versions = {"distcls": "0.1.0", "torch": "2.10.0"}
    write(run_dir, "env", {"device": "cpu", "device_name": "x86_64", "world_size": 2, "versions": versions})
    write(run_dir, "classes", [f"class {i}" for i in range(3)])
    report = {"fingerprint": images, "split_fingerprints": {"val": "v", "test": images}}
    write(run_dir, "data_report", {**report, "splits": {"train": {"num_images": IMAGES}}})
    write_curves(run_dir, accuracy)
    if state == "finished":
        write_results(run_dir, accuracy)
    if right is not None:
        labels = np.arange(len(right)) % 3
        preds = np.where(right, labels, (labels + 1) % 3)
        names = np.array([f"{images}/{i}.png" for i in range(len(right))])
        probs = np.eye(3, dtype=np.float32)[preds]
        save_predictions(run_dir, "test", Predictions(names, labels, preds, probs.max(1).astype(float), probs))
    return run_dir


def copy_run(run_dir: Path, to: Path, old: str, new: str) -> None:
    """A copy whose config has another text in place of `old`: faster than another run."""
    shutil.copytree(run_dir, to)
    config = (to / "config.yaml").read_text()
    assert old in config
    (to / "config.yaml").write_text(config.replace(old, new))


def write(run_dir: Path, name: str, value: Any) -> None:
    (run_dir / f"{name}.json").write_text(json.dumps(value))


def write_results(run_dir: Path, accuracy: float | None) -> None:
    """metrics.json, with an interval for the accuracy, and the header of weights without the weights."""
    values = {"accuracy": accuracy, "loss": 1 - (accuracy or 0), "macro_f1": accuracy, "count": IMAGES}
    intervals = None if accuracy is None else {"accuracy": [accuracy - 0.02, accuracy + 0.01]}
    write(run_dir, "metrics", {split: {**values, "intervals": intervals} for split in ("val", "test")})
    tensors = {**{name: ("F32", shape) for name, shape in PARAMETERS.items()}, "bn.running_mean": ("F32", [99])}
    tensors["bn.num_batches_tracked"] = ("I64", [])
    header = {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in tensors.items()}
    text = json.dumps({**header, "__metadata__": {"format": "pt"}}).encode()
    (run_dir / "model").mkdir()
    (run_dir / "model" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def write_curves(run_dir: Path, accuracy: float | None) -> None:
    """metrics.csv: the accuracy on val rises to the given one and falls again."""
    lines = ["time,step,epoch,split,loss,accuracy,train_loss"]
    for epoch in range(1, 11) if accuracy is not None else ():
        value = accuracy - 0.1 * abs(epoch - 8) / 10
        lines.append(f"2026-01-01T00:00:{epoch:02}.000+00:00,{epoch * 10},{epoch},val,{1 - value},{value},{1 - value}")
    (run_dir / "metrics.csv").write_text("\n".join(lines) + "\n")
