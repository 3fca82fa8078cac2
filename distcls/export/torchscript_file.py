"""Exports a run's classifier as TorchScript (.pt), for C++ and for PyTorch versions without torch.export."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from distcls.export.formats import ExportOptions
from distcls.export.portable import Portable, not_exportable
from distcls.export.proof import Outputs


def write_file(path: Path, portable: Portable, metadata: Mapping[str, str], options: ExportOptions) -> None:
    """Write the traced module, with the metadata as its extra files. Raises UsageError if it cannot be traced."""
    with torch.no_grad(), _without_warnings():
        try:
            traced = torch.jit.trace(portable, portable.example(), check_trace=False)  # proof.py checks more
        except Exception as error:  # whatever the network's own code raises
            raise not_exportable(error) from error
        torch.jit.save(traced, path, _extra_files=dict(metadata))


def open_file(path: Path, portable: Portable) -> Outputs:
    """Return a function from images to outputs, computed by the module in the file."""
    with _without_warnings():
        module = torch.jit.load(path)

    def outputs(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return outputs


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence torch's advice to use torch.export, and the tracer's about shapes, which the proof tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
