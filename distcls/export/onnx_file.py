"""Exports a run's classifier as one ONNX file, which onnxruntime runs without PyTorch, and mostly without Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram, export

from distcls import __version__
from distcls.errors import InexactExportError, UsageError
from distcls.export.formats import ExportOptions
from distcls.export.portable import Portable, not_exportable, quietly
from distcls.export.proof import Outputs
from distcls.export.resizing import Resizing

OPSET = 20
"""The version of ONNX's operators unless --opset says otherwise."""

OPSETS = range(18, 24)
"""What torch can write."""

LARGEST = 2**31 - 2**20
"""Bytes. ONNX files are Protocol Buffers, which end at 2 GiB; the graph takes some of it."""

ABOUT = "An image classifier. metadata_props say what goes in and out, and how to prepare an image."


def write_file(path: Path, portable: Portable, metadata: Mapping[str, str], options: ExportOptions) -> None:
    """Write the graph, its weights and the metadata as one file. Raises UsageError if that is not possible."""
    opset = options.opset or OPSET
    if opset not in OPSETS:
        raise UsageError(f"--opset {opset}: torch {torch.__version__} writes {OPSETS.start} to {OPSETS.stop - 1}")
    if portable.num_bytes() > LARGEST:
        raise UsageError(
            f"the weights take {portable.num_bytes() / 1e9:.1f} GB, and an ONNX file ends at 2 GB: use --format pt2 or "
            "safetensors"
        )
    save(path, _model_of(portable.program(), "images", portable.output_name, opset), metadata)


def open_file(path: Path, portable: Portable | None = None, num_threads: int = 0) -> Outputs:
    """Return a function from images to outputs, computed by onnxruntime on the CPU.

    num_threads: 0: as many as onnxruntime likes; 1: only the caller's, so that the process may fork afterwards.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def outputs(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: images})[0])

    return outputs


def write_resizing(path: Path, resizing: Resizing, opset: int) -> None:
    """Write the graph that resizes an image (H, W, 3) of any size to images (1, S, S, 3)."""
    sides = {0: Dim("height", min=1), 1: Dim("width", min=1)}
    with torch.no_grad():
        program = export(resizing, (torch.zeros(5, 7, 3, dtype=torch.uint8),), dynamic_shapes={"image": sides})
    save(path, _model_of(program, "image", "images", opset), {})


def join(path: Path, first: Path, second: Path, metadata: Mapping[str, str]) -> None:
    """Write one file that passes what the first computes, one image, to the second."""
    import onnx

    models = [onnx.load(first), onnx.load(second)]
    output, takes = models[0].graph.output[0].name, models[1].graph.input[0].name
    joined = onnx.compose.merge_models(
        onnx.compose.add_prefix(models[0], "resize/", rename_inputs=False),
        models[1],
        io_map=[(f"resize/{output}", takes)],
    )
    joined.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    save(path, joined, metadata)


def save_with(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata in an ONNX file."""
    import onnx

    save(path, onnx.load(path), metadata)


def save(path: Path, model: Any, metadata: Mapping[str, str]) -> None:
    """Write an ONNX model, with metadata instead of what it holds."""
    import onnx

    model.producer_name, model.producer_version, model.doc_string = "distcls", __version__, ABOUT
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, as metadata.py describes it. Raises InexactExportError if it is no such file."""
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # of Protocol Buffers' own kinds
        raise InexactExportError(f"{path} is damaged ({error}): export the run again") from error
    return {one.key: one.value for one in model.metadata_props}


def opset_of(path: Path) -> int:
    """Return the version of ONNX's operators that a file uses."""
    import onnx

    return max(one.version for one in onnx.load(path).opset_import if not one.domain)


def _model_of(program: ExportedProgram, takes: str, gives: str, opset: int) -> Any:
    """Return a program as an ONNX model with an input and an output of these names."""
    with quietly():
        try:
            exported = torch.onnx.export(
                program,
                input_names=[takes],
                output_names=[gives],
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # of the exporter's own kinds, such as an operator that ONNX does not have
            raise not_exportable(error) from error
    assert exported is not None
    model = exported.model_proto
    graph = model.graph
    _leave_out_traces([graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer])
    return model


def _leave_out_traces(parts: Sequence[Any]) -> None:
    """Remove where in the source each operator comes from: it is long, and tells of the machine's folders."""
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
