"""Requests of the Open Inference Protocol: JSON and binary, pixels and files; and Triton's own client."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Served, png

pytest.importorskip("fastapi", reason="pip install 'distcls[serve]'")

from distcls.serving.open_inference import read
from distcls.serving.problems import Problem

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)


def body_of(tensor: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "images", **tensor}], **rest}).encode()


def in_list(data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    return {"datatype": "UINT8", "shape": shape or [3, 8, 8, 3], "data": data}


def test_pixels_may_be_nested_or_flat_or_behind_the_json() -> None:
    for data in (PIXELS.tolist(), PIXELS.ravel().tolist()):
        asked = read(body_of(in_list(data)), None, 8, 64)
        assert asked.pixels is not None and asked.pixels.dtype == np.uint8
        np.testing.assert_array_equal(asked.pixels, PIXELS)
    tensor = {"datatype": "UINT8", "shape": [3, 8, 8, 3], "parameters": {"binary_data_size": PIXELS.nbytes}}
    text = body_of(tensor)
    asked = read(text + PIXELS.tobytes(), str(len(text)), 8, 64)
    assert asked.pixels is not None
    np.testing.assert_array_equal(asked.pixels, PIXELS)


def test_files_may_be_base64_or_behind_the_json() -> None:
    files = [b"a", b"", b"ccc"]
    binary = b"".join(struct.pack("<I", len(file)) + file for file in files)
    text = body_of({"datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(binary)}})
    assert read(text + binary, str(len(text)), 8, 64).files == files
    encoded = [base64.b64encode(file).decode() for file in (b"a", b"b")]
    for shape, data in (([2], encoded), ([2, 1], [[one] for one in encoded])):
        assert read(body_of({"datatype": "BYTES", "shape": shape, "data": data}), None, 8, 64).files == [b"a", b"b"]


FILES = {"datatype": "BYTES", "shape": [1], "data": ["YQ=="]}

WRONG: dict[str, tuple[int, str, bytes, str | None]] = {
    "no JSON": (400, "the JSON is wrong", b"\x00", None),
    "a length beyond the body": (400, "the body has 2 bytes", b"{}", "3"),
    "a length that is none": (400, "inference-header-content-length x", b"{}", "x"),
    "nothing": (422, "inputs: Field required", b"{}", None),
    "two inputs": (422, "inputs: List should have at most 1", json.dumps({"inputs": [FILES, FILES]}).encode(), None),
    "another input": (
        422,
        "inputs.0.name: Input should be 'images'",
        b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["YQ=="]}]}',
        None,
    ),
    "another output": (
        422,
        "outputs.0.name: Input should be 'probabilities'",
        body_of(FILES, outputs=[{"name": "x"}]),
        None,
    ),
    "another type": (422, "inputs.0.datatype", body_of({**FILES, "datatype": "FP32"}), None),
    "no data": (400, "needs either `data`", body_of({"datatype": "BYTES", "shape": [1]}), None),
    "bytes that are not announced": (400, "binary_data_size is 0", body_of(FILES) + b"a", str(len(body_of(FILES)))),
    "another shape": (422, "[n, 8, 8, 3], not [3, 3, 8, 8]", body_of(in_list([0], [3, 3, 8, 8])), None),
    "too few values": (422, "2 values do not make the shape", body_of(in_list([0, 1])), None),
    "ragged": (422, "whole numbers from 0 to 255", body_of(in_list([[0], [0, 1]])), None),
    "fractions": (422, "whole numbers from 0 to 255", body_of(in_list([0.5] * 192, [1, 8, 8, 3])), None),
    "too large numbers": (422, "whole numbers from 0 to 255", body_of(in_list([256] * 192, [1, 8, 8, 3])), None),
    "huge numbers": (422, "whole numbers from 0 to 255", body_of(in_list([10**30] * 192, [1, 8, 8, 3])), None),
    "text": (422, "whole numbers from 0 to 255", body_of(in_list(["a"] * 192, [1, 8, 8, 3])), None),
    "no images": (422, "not [0, 8, 8, 3]", body_of(in_list([], [0, 8, 8, 3])), None),
    "a negative number": (422, "not [-1, 8, 8, 3]", body_of(in_list([0], [-1, 8, 8, 3])), None),
    "many": (413, "3 images in a request, and 2 are allowed", body_of(in_list([0])), None),
    "numbers as files": (422, "are image files as base64", body_of({**FILES, "data": [1]}), None),
    "no base64": (422, "image 0 is not base64", body_of({**FILES, "data": ["?"]}), None),
    "other number of files": (422, "1 files do not make the shape [2]", body_of({**FILES, "shape": [2]}), None),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_has_a_reason(name: str) -> None:
    status, reason, body, length = WRONG[name]
    with pytest.raises(Problem) as caught:
        read(body, length, 8, 2 if name == "many" else 64)
    assert caught.value.status == status and reason in caught.value.reason, caught.value.reason


@pytest.mark.parametrize("binary", [b"\x01\x00", struct.pack("<I", 9) + b"a", struct.pack("<I", 2**32 - 1)])
def test_files_that_end_early(binary: bytes) -> None:
    text = body_of({"datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(binary)}})
    with pytest.raises(Problem, match="the bytes behind the JSON end early"):
        read(text + binary, str(len(text)), 8, 64)


def test_the_routes_answer_what_predict_answers(serving) -> None:
    content = png()
    with serving() as client:
        topk = client.post("/predict", content=content).json()["predictions"][0]["topk"]
        expected = {one["class"]: one["probability"] for one in topk}
        about = client.get("/v2/models/shades").json()
        assert (about["name"], about["versions"]) == ("shades", ["1"])
        assert about["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
        assert about["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
        file = {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(content).decode()]}
        for path in ("/v2/models/shades/infer", "/v2/models/shades/versions/1/infer"):
            answer = client.post(path, content=body_of(file, id="7")).json()
            assert (answer["model_name"], answer["id"]) == ("shades", "7")
            (output,) = answer["outputs"]
            assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [1, 3])
            assert dict(zip(["dark", "gray", "bright"], output["data"], strict=True)) == pytest.approx(expected)
        assert client.get("/v2/models/shades/ready").json() == {"name": "shades", "ready": True}
        for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/shades/versions/2"):
            answer = client.get(path)
            assert answer.status_code == 404 and "it is 'shades', 1" in answer.json()["error"]
        bad = {"datatype": "BYTES", "shape": [2], "data": ["YQ==", file["data"][0]]}
        answer = client.post("/v2/models/shades/infer", content=body_of(bad))
        assert (answer.status_code, answer.json()) == (422, {"error": "not an image, or in an unsupported format"})


@pytest.mark.extras
@pytest.mark.timeout(300)
def test_tritons_client(run: Path) -> None:
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
    from tritonclient.utils import InferenceServerException

    contents = [png(seed) for seed in range(3)]
    with Served(run) as service:
        client = InferenceServerClient(f"127.0.0.1:{service.port}")
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1") and not client.is_model_ready("other")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        about = client.get_model_metadata("digits")
        assert about["inputs"][0]["shape"] == [-1, 8, 8, 3] and about["outputs"][0]["shape"] == [-1, 10]
        expected = [
            {one["class"]: one["probability"] for one in json.loads(answer)["predictions"][0]["topk"]}
            for answer in (service.request("POST", "/predict?topk=10", content)[1] for content in contents)
        ]

        def ask(is_binary: bool, asks_binary: bool, as_files: bool) -> Any:
            array = np.array(contents, dtype=np.object_) if as_files else PIXELS
            if not as_files:
                array = np.stack([np.random.default_rng(seed).integers(0, 256, (8, 8, 3)) for seed in range(3)])
            given = InferInput("images", [3] if as_files else [3, 8, 8, 3], "BYTES" if as_files else "UINT8")
            if as_files and not is_binary:
                array = np.array([base64.b64encode(content) for content in contents], dtype=np.object_)
            given.set_data_from_numpy(array if as_files else array.astype(np.uint8), binary_data=is_binary)
            wanted = InferRequestedOutput("probabilities", binary_data=asks_binary)
            return client.infer("digits", [given], outputs=[wanted]).as_numpy("probabilities")

        for is_binary in (True, False):
            for asks_binary in (True, False):
                for as_files in (True, False):
                    probs = ask(is_binary, asks_binary, as_files)
                    assert probs.dtype == np.float32 and probs.shape == (3, 10)
                    for row, shares in zip(probs, expected, strict=True):
                        assert {str(i): share for i, share in enumerate(row.tolist())} == pytest.approx(
                            shares, abs=1e-6
                        )

        given = InferInput("images", [1], "BYTES")
        given.set_data_from_numpy(np.array(contents[:1], dtype=np.object_))
        answer = client.infer("digits", [given], request_id="a")  # as it is by default: binary both ways
        assert answer.get_response()["id"] == "a" and answer.as_numpy("probabilities").shape == (1, 10)
        wanted = InferRequestedOutput("probabilities", class_count=2)
        best = client.infer("digits", [given], outputs=[wanted]).as_numpy("probabilities")
        share, label, name = best[0, 0].decode().split(":")
        assert best.shape == (1, 2) and label == name == max(expected[0], key=expected[0].__getitem__)
        assert float(share) == pytest.approx(max(expected[0].values()), abs=1e-6)
        given.set_data_from_numpy(np.array([b"no image"], dtype=np.object_))
        with pytest.raises(InferenceServerException, match=r"\[422\] not an image"):
            client.infer("digits", [given])
        client.close()
