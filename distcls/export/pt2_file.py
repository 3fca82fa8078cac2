"""Exports a run's classifier as a torch.export program (.pt2), which PyTorch runs without distcls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from distcls.export.formats import ExportOptions
from distcls.export.portable import Portable, quietly
from distcls.export.proof import Outputs


def write_file(path: Path, portable: Portable, metadata: Mapping[str, str], options: ExportOptions) -> None:
    """Write the program, with the metadata as its extra files."""
    program = portable.program()
    with quietly():
        torch.export.save(program, path, extra_files=dict(metadata))


def open_file(path: Path, portable: Portable) -> Outputs:
    """Return a function from images to outputs, computed by the program in the file."""
    with quietly():
        module = torch.export.load(path).module()

    def outputs(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return outputs
