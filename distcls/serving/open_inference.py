"""Reads and writes inference requests of the Open Inference Protocol (v2), which Triton's and KServe's clients speak.

Tensors are JSON lists, or bytes behind the JSON (the binary tensor data extension), whose length is then in the header
Inference-Header-Content-Length. https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from distcls.serving.bodies import from_base64, parse, too_many
from distcls.serving.problems import BAD_REQUEST, UNREADABLE, Problem

JSON_LENGTH = "inference-header-content-length"

INPUT, OUTPUT = "images", "probabilities"

EXTENSIONS = ["binary_tensor_data", "classification"]

DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.float64): "FP64"}


class Tensor(BaseModel):
    """An input."""

    model_config = ConfigDict(extra="ignore")
    name: Literal["images"]
    datatype: Literal["UINT8", "BYTES"]
    shape: list[int] = Field(min_length=1, max_length=4)
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class Wanted(BaseModel):
    """An output that was asked for."""

    model_config = ConfigDict(extra="ignore")
    name: Literal["probabilities"]
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """The JSON of a request: one input, `images`, UINT8 (n, S, S, 3), or n image files as BYTES."""

    model_config = ConfigDict(extra="ignore")
    id: str = ""
    parameters: dict[str, Any] = {}
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[Wanted] = Field(default=[], max_length=1)


class Asked(NamedTuple):
    """A request that has been read."""

    request: InferRequest
    pixels: np.ndarray | None
    """uint8 (n, S, S, 3); None if files were sent."""
    files: list[bytes]


def read(body: bytes, json_length: str | None, image_size: int, most_images: int) -> Asked:
    """Return what a request asks for. json_length: the header's value. Raises Problem."""
    length = len(body)
    if json_length is not None:
        if not json_length.isdecimal() or int(json_length) > length:
            raise Problem(BAD_REQUEST, f"{JSON_LENGTH} {json_length}: the body has {length:,} bytes")
        length = int(json_length)
    request = parse(InferRequest, body[:length])
    assert isinstance(request, InferRequest)
    tensor, binary = request.inputs[0], memoryview(body)[length:]
    _check_binary(tensor, len(binary))
    if tensor.shape[0] > most_images:
        raise too_many(tensor.shape[0], most_images)
    if tensor.datatype == "UINT8":
        return Asked(request, _pixels(tensor, binary, image_size), [])
    return Asked(request, None, _files(tensor, binary))


def _check_binary(tensor: Tensor, length: int) -> None:
    """Raise Problem unless the bytes behind the JSON are those of the input, or there are none and it has data."""
    announced = tensor.parameters.get("binary_data_size", 0)
    if announced != length or (tensor.data is None) == (length == 0):
        raise Problem(
            BAD_REQUEST,
            f"the input needs either `data`, or binary_data_size and that many bytes behind the JSON: {length:,} bytes "
            f"are there, and binary_data_size is {announced}",
        )


def _pixels(tensor: Tensor, binary: memoryview, size: int) -> np.ndarray:
    """Return the pixels of a UINT8 input, (n, S, S, 3)."""
    expected = [size, size, 3]
    if tensor.shape[1:] != expected or tensor.shape[0] < 1:
        raise Problem(UNREADABLE, f"UINT8 images have the shape [n, {size}, {size}, 3], not {tensor.shape}")
    values = np.frombuffer(binary, np.uint8) if tensor.data is None else _numbers(tensor.data)
    if values.size != np.prod(tensor.shape):
        raise Problem(UNREADABLE, f"{values.size:,} values do not make the shape {tensor.shape}")
    return values.reshape(tensor.shape)


def _numbers(data: list[Any]) -> np.ndarray:
    """Return a JSON list, nested or not, as uint8."""
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError):
        values = np.empty(0)  # rows of different lengths
    if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() <= 255):
        raise Problem(UNREADABLE, "UINT8 data are whole numbers from 0 to 255, in a list or in lists of one shape")
    return values.astype(np.uint8)


def _files(tensor: Tensor, binary: memoryview) -> list[bytes]:
    """Return the image files of a BYTES input: base64 in JSON, or each behind its length."""
    shape = tensor.shape
    if shape[0] < 1 or shape[1:] not in ([], [1]):
        raise Problem(UNREADABLE, f"BYTES are image files of the shape [n] or [n, 1], not {shape}")
    files = _split(binary) if tensor.data is None else [_file(one, place) for place, one in enumerate(tensor.data)]
    if len(files) != shape[0]:
        raise Problem(UNREADABLE, f"{len(files):,} files do not make the shape {shape}")
    return files


def _file(one: Any, place: int) -> bytes:
    while isinstance(one, list) and len(one) == 1:
        (one,) = one
    if not isinstance(one, str):
        raise Problem(UNREADABLE, f"image {place}: BYTES in JSON are image files as base64")
    return from_base64(one, f"image {place}")


def _split(binary: memoryview) -> list[bytes]:
    files, place = [], 0
    while place < len(binary):
        if place + 4 > len(binary):
            raise Problem(BAD_REQUEST, "the bytes behind the JSON end early")
        (length,) = struct.unpack_from("<I", binary, place)
        place += 4 + length
        if place > len(binary):
            raise Problem(BAD_REQUEST, "the bytes behind the JSON end early")
        files.append(bytes(binary[place - length : place]))
    return files


def write(
    asked: InferRequest, probs: np.ndarray, model: str, class_names: Sequence[str]
) -> tuple[bytes, Mapping[str, str]]:
    """Return the body of the answer and its headers. probs: (n, C)."""
    wanted = asked.outputs[0].parameters if asked.outputs else {}
    number = wanted.get("classification", 0)
    if not isinstance(number, int) or number < 0:
        raise Problem(UNREADABLE, f"classification {number!r}: give how many classes, such as 5")
    if number:
        best = np.argsort(-probs, axis=1, kind="stable")[:, :number]
        texts = [
            f"{share:.9g}:{label}:{class_names[label]}"
            for row, labels in zip(probs, best, strict=True)
            for label, share in zip(labels, row[labels], strict=True)
        ]
        shape, datatype = [len(probs), best.shape[1]], "BYTES"
    else:
        texts, shape, datatype = [], list(probs.shape), DATATYPES[probs.dtype]
    output: dict[str, Any] = {"name": OUTPUT, "datatype": datatype, "shape": shape}
    answer = {"model_name": model, "model_version": "1", "outputs": [output]}
    if asked.id:
        answer["id"] = asked.id
    if wanted.get("binary_data", asked.parameters.get("binary_data_output", False)) is True:
        encoded = [text.encode("utf-8", "replace") for text in texts]
        binary = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
        if not number:
            binary = np.ascontiguousarray(probs, probs.dtype.newbyteorder("<")).tobytes()
        output["parameters"] = {"binary_data_size": len(binary)}
        text = json.dumps(answer).encode()
        headers = {JSON_LENGTH: str(len(text)), "content-type": "application/octet-stream"}
        return text + binary, headers
    output["data"] = texts if number else probs.ravel().tolist()
    return json.dumps(answer).encode(), {"content-type": "application/json"}


def metadata(model: str, platform: str, image_size: int, num_classes: int, datatype: str) -> dict[str, Any]:
    """Return the metadata of the model."""
    return {
        "name": model,
        "versions": ["1"],
        "platform": platform,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, image_size, image_size, 3]}],
        "outputs": [{"name": OUTPUT, "datatype": datatype, "shape": [-1, num_classes]}],
    }
