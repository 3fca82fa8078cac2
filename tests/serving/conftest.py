"""A service in this process, with a network that is one line, and a small run for real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CLASSES = ["dark", "gray", "bright"]
SETTINGS = ["model.args={hidden: 16}", "train.num_steps=60", "train.num_threads=1", "train.precision=float32"]


def by_brightness(images: np.ndarray) -> np.ndarray:
    """Probabilities (n, 3) that depend on the mean of the pixels."""
    mean = images.mean((1, 2, 3)) / 255
    logits = np.stack([1 - mean, np.full_like(mean, 0.5), mean], 1) * 4
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def serving() -> Callable[..., Any]:
    """Runs the application, for images of 8 × 8 pixels: `with serving(compute, **options) as client`."""
    from starlette.testclient import TestClient

    from distcls.data.decoding.decode import Decoding
    from distcls.serving.app import build_app
    from distcls.serving.backends import Backend
    from distcls.serving.options import ServeOptions

    @contextmanager
    def run(compute: Callable[[np.ndarray], np.ndarray] = by_brightness, **options: Any) -> Iterator[Any]:
        backend = Backend(CLASSES, Decoding(8), compute, "pytorch", "cpu", None, 1.5, "5ha256")  # type: ignore[arg-type]
        gate = build_app(backend, ServeOptions("shades", **options)).state.service.gate
        with TestClient(gate, raise_server_exceptions=False) as client:
            yield client

    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder of a run on digits, 8 × 8 pixels, with its kept pictures and its ONNX file."""
    from distcls.cluster.processes import group_closed
    from distcls.config.loading import load_config
    from distcls.training.loop import train

    folder = tmp_path_factory.mktemp("served") / "digits"
    with group_closed():
        train(load_config(None, [*SETTINGS, "run.trackers=[]", f"run.dir={folder}"], []), "digits")
    return folder
