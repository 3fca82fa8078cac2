"""Exports a run's classifier as TorchScript (.pt), for C++ and for PyTorch versions without torch.export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from distcls.export.formats import ExportOptions
from distcls.export.portable import Portable, not_exportable, quietly
from distcls.export.proof import Outputs


def write_file(path: Path, portable: Portable, metadata: Mapping[str, str], options: ExportOptions) -> None:
    """Write the traced module, with the metadata as its extra files. Raises UsageError if it cannot be traced."""
    with torch.no_grad(), quietly():
        try:
            traced = torch.jit.trace(portable, portable.example(), check_trace=False)  # proof.py checks more
        except Exception as error:  # whatever the network's own code raises
            raise not_exportable(error) from error
        torch.jit.save(traced, path, _extra_files=dict(metadata))


def open_file(path: Path, portable: Portable) -> Outputs:
    """Return a function from images to outputs, computed by the module in the file."""
    with quietly():
        module = torch.jit.load(path)

    def outputs(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return outputs
