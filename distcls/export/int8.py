"""Quantizes an ONNX file: its convolutions and matrix products compute with 8-bit integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distcls.export.portable import quietly

BATCH_SIZE = 8

OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"]
"""What is quantized. Softmax, normalization of layers and the like lose much and gain little."""

WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")


class Calibration:
    """Hands images to onnxruntime, which notes the range of every activation."""

    def __init__(self, images: np.ndarray, name: str) -> None:
        self.batches = iter({name: images[i : i + BATCH_SIZE]} for i in range(0, len(images), BATCH_SIZE))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch; None after the last."""
        return next(self.batches, None)


def quantize(source: Path, target: Path, images: np.ndarray) -> None:
    """Write the int8 version of an ONNX file, with weights by channel and activations by tensor.

    images: uint8 (n, S, S, 3), typical ones. Weights take 7 of their 8 bits: with 8, sums overflow on processors
    without VNNI, and the accuracy measured here would not be that of another machine.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    with quietly():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        quantization.quantize_static(
            model,
            target,
            Calibration(images, model.graph.input[0].name),  # type: ignore[arg-type]  # it only needs get_next
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},  # attention multiplies activations, whose range varies too much
            nodes_to_exclude=_before_the_network(model.graph),
        )
    prepared.unlink()


def _before_the_network(graph: Any) -> list[str]:
    """Return the names of the operators that normalize pixels: all that come before the first with weights."""
    names = []
    for node in graph.node:
        if node.op_type in WITH_WEIGHTS:
            break
        names.append(node.name)
    return names
