"""Exports a run's weights as one safetensors file, under the names of its network's own library."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distcls.export.formats import ExportOptions
from distcls.export.portable import Portable
from distcls.export.proof import Outputs
from distcls.files.verified import read_tensors, tensor_writer
from distcls.models.weights import load_weights


def write_file(path: Path, portable: Portable, metadata: Mapping[str, str], options: ExportOptions) -> None:
    """Write the network's tensors and the metadata."""
    # Cloned, so that tied tensors are stored under each of their names: other programs do not know that they are tied.
    tensors = {name: tensor.clone() for name, tensor in portable.classifier.network.state_dict().items()}
    with path.open("wb") as file:
        tensor_writer(tensors, metadata)(file)


def open_file(path: Path, portable: Portable) -> Outputs:
    """Return a function from images to outputs, computed by a copy of the network with the file's weights."""
    copied = copy.deepcopy(portable)
    for parameter in copied.classifier.network.parameters():
        parameter.data.zero_()
    load_weights(copied.classifier.network, read_tensors(path))

    def outputs(images: np.ndarray) -> np.ndarray:
        return copied.predict(images)

    return outputs
