"""Computes probabilities, with PyTorch or with the file that `distcls export` wrote."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distcls.config.settings import Config
from distcls.data.decoding.decode import Decoding
from distcls.errors import MissingInputError, UsageError
from distcls.export.formats import ExportOptions, output_file
from distcls.export.metadata import DECIDING, describe
from distcls.export.onnx_file import open_file, read_metadata
from distcls.export.portable import Portable
from distcls.inference.classifier import Classifier, load_classifier
from distcls.inference.prediction import choose_device
from distcls.models.init_from import find_weights
from distcls.serving.fusing import fused


@dataclass(frozen=True)
class Backend:
    """A function that classifies, and what its callers need to know."""

    class_names: list[str]
    decoding: Decoding
    compute: Callable[[np.ndarray], np.ndarray]
    """From uint8 (n, S, S, 3) to probabilities (n, C), float32 or float64."""
    platform: str
    """Its name in the metadata of the Open Inference Protocol."""
    device: str
    classifier: Classifier
    """The run's, for Grad-CAM."""
    temperature: float
    """Of the probabilities (distcls eval --calibrate)."""
    weights_sha256: str
    """Of the file with the weights."""


def open_backend(run_dir: Path, config: Config, name: str, device: str, threads: int) -> Backend:
    """Return the backend of this name. config: the run's.

    Raises MissingInputError if there is no exported file, and UsageError if it is not the run's, or for a device that
    there is not. The process may fork before the backend computes. threads: of an exported file.
    """
    is_file = name != "torch"
    if is_file:
        config = config.replaced({"train.precision": "float32"})  # as it was exported, so that the two can be compared
    classifier = load_classifier(run_dir, config).to(choose_device("cpu" if is_file else device))
    about = describe(Portable(classifier), config, find_weights(run_dir))
    if is_file:
        file = _exported_file(run_dir, about, is_int8=name == "onnx-int8")
        # Threads do not survive a fork, so a session that has some is opened by the worker. Others share their weights.
        compute = open_file(file, num_threads=1) if threads == 1 else _opened_late(file, threads)
        platform = "onnxruntime_onnx"
    else:
        compute, platform = Portable(fused(classifier)).predict, "pytorch"
    return Backend(
        classifier.class_names,
        classifier.decoding,
        compute,
        platform,
        str(classifier.device),
        classifier,
        float(classifier.temperature),
        about["weights_sha256"],
    )


def _opened_late(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that opens the file on its first call."""
    opened = functools.cache(lambda: open_file(file, num_threads=threads))
    return lambda images: opened()(images)


def _exported_file(run_dir: Path, expected: Mapping[str, str], is_int8: bool) -> Path:
    """Return the run's ONNX file, if it answers as the run does now. is_int8: the quantized one.

    expected: what describes a file of the run.
    """
    file = output_file(run_dir, ExportOptions("onnx", int8=is_int8))
    backend, export = (
        ("onnx-int8", f"distcls export {run_dir} --int8") if is_int8 else ("onnx", f"distcls export {run_dir}")
    )
    if not file.exists():  # perhaps the folder had another name when the run was exported
        found = list(file.parent.glob("*.onnx"))
        if len(found) > 1:
            found = [one for one in found if _unsuitable(read_metadata(one), is_int8) is None]
        if len(found) != 1:
            raise MissingInputError(f"--backend {backend}: there is no {file}. Write it first: {export}")
        file = found[0]
    about = read_metadata(file)
    differing = [name for name in DECIDING if about.get(name) != expected[name]]
    if differing:
        raise UsageError(
            f"--backend {backend}: {file} does not match the run (different: {', '.join(differing)}). Export it again: "
            f"{export}"
        )
    if reason := _unsuitable(about, is_int8):
        raise UsageError(f"--backend {backend}: {file} was written {reason}. Export the run again: {export}")
    return file


def _unsuitable(about: Mapping[str, str], is_int8: bool) -> str | None:
    """Return how `distcls export` wrote a file that is not served; None if it is. about: its metadata."""
    if not about.get("output", "").startswith("probabilities"):
        return "with --logits, which serving does not take"
    if not about.get("input", "").startswith("uint8 (batch"):
        return "with --with-resize, which serving does not take"
    if is_int8 != ("quantization" in about):
        return "without --int8" if is_int8 else "with --int8, which is --backend onnx-int8"
    return None
