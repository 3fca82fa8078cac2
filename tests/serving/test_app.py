"""What the routes answer, to good requests and to bad ones."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served import png

pytest.importorskip("fastapi", reason="pip install 'distcls[serve]'")

from distcls.serving.options import Limits

BINARY = {"content-type": "image/png"}


def shade(level: int, side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (level,) * 3).save(file, "PNG")
    return file.getvalue()


def in_json(*contents: bytes) -> dict[str, Any]:
    return {"images": [base64.b64encode(content).decode() for content in contents]}


def test_an_image_gets_the_same_answer_however_it_is_sent(serving) -> None:
    content = shade(250)
    with serving() as client:
        expected = client.post("/predict", content=content, headers=BINARY).json()["predictions"]
        assert expected[0]["prediction"] == "bright" and expected[0]["image"] is None
        assert client.post("/predict?topk=5", content=content).json()["predictions"] == expected  # through FastAPI
        assert [one["class"] for one in expected[0]["topk"]] == ["bright", "gray", "dark"]
        assert sum(one["probability"] for one in expected[0]["topk"]) == pytest.approx(1, abs=1e-6)
        encoded = in_json(content)["images"][0]
        ways = [
            {"content": content},
            {"content": content, "headers": {"content-type": "application/octet-stream"}},
            {"content": content, "headers": {"content-type": "IMAGE/JPEG; x=y"}},
            {"content": content, "headers": {"content-type": "application/x-image"}},
            {"json": {"images": [base64.encodebytes(content).decode()]}},
            {"json": {"images": [encoded]}},
            {"json": {"images": [f"data:image/png;base64,{encoded}"]}},
            {"json": {"instances": [{"b64": encoded}], "parameters": {}}},
            {"files": [("anything", ("", content))]},
        ]
        for way in ways[:-1]:
            assert client.post("/predict", **way).json()["predictions"] == expected, way
        named = client.post("/predict", files=[("anything", ("a.png", content, "image/png"))]).json()["predictions"]
        assert named == [{**expected[0], "image": "a.png"}]
        for route in ("/invocations",):
            assert client.post(route, content=content, headers=BINARY).json()["predictions"] == expected


def test_several_images_are_answered_in_order_and_topk_is_how_many_classes(serving) -> None:
    contents = [shade(level) for level in (250, 3, 130, 250)]
    with serving() as client:
        rows = client.post("/predict?topk=1", json=in_json(*contents)).json()["predictions"]
        assert [row["prediction"] for row in rows] == ["bright", "dark", "bright", "bright"]
        assert {len(row["topk"]) for row in rows} == {1}
        files = [("images", (f"{place}.png", content)) for place, content in enumerate(contents)]
        rows = client.post("/predict?topk=99", files=files).json()["predictions"]
        assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
        assert {len(row["topk"]) for row in rows} == {3}


def test_a_bad_image_fails_alone(serving) -> None:
    with serving() as client:
        files = [("images", ("a.png", shade(9))), ("images", ("b.png", b"no image")), ("images", ("c.png", shade(9)))]
        rows = client.post("/predict", files=files).json()["predictions"]
        assert rows[1] == {"image": "b.png", "error": "not an image, or in an unsupported format"}
        assert rows[0]["prediction"] == rows[2]["prediction"] == "dark"
        answer = client.post("/predict", json=in_json(b"no image", b"another"))
        assert (answer.status_code, answer.json()) == (422, {"error": "not an image, or in an unsupported format"})
        metrics = client.get("/metrics").text
        assert 'distcls_images_refused_total{status="422"} 3.0' in metrics


FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'

BAD: dict[str, tuple[int, str, bytes, dict[str, str]]] = {
    "no image": (422, "not an image", b"GIF", BINARY),
    "half an image": (422, "truncated", png(0, 64)[:-60], BINARY),
    "nothing": (422, "the body is empty", b"", BINARY),
    "text": (415, "Content-Type text/plain is not read: send", png(), {"content-type": "text/plain"}),
    "what curl says": (415, "x-www-form-urlencoded", png(), {"content-type": "application/x-www-form-urlencoded"}),
    "compressed": (415, "Content-Encoding gzip", png(), {**BINARY, "content-encoding": "gzip"}),
    "broken JSON": (400, "the JSON is wrong", b'{"images": [', {"content-type": "application/json"}),
    "deep JSON": (400, "the JSON is wrong", b"[" * 60_000, {"content-type": "application/json"}),
    "JSON of Latin-1": (400, "the JSON is wrong", b'{"images": ["\xe9"]}', {"content-type": "application/json"}),
    "other JSON": (422, "images: Field required", b'{"image": "x"}', {"content-type": "application/json"}),
    "no images": (422, "at least 1 item", b'{"images": []}', {"content-type": "application/json"}),
    "no base64": (422, "image 0 is not base64", b'{"images": ["?"]}', {"content-type": "application/json"}),
    "a data URL of nothing": (422, "image 0 is empty", b'{"images": ["data:,"]}', {"content-type": "application/json"}),
    "no boundary": (400, "must name a boundary", b"--x", {"content-type": "multipart/form-data"}),
    "an encoded boundary": (
        400,
        "must name a boundary",
        PART + b"a\r\n--x--\r\n",
        {"content-type": "multipart/form-data; boundary*=UTF-8''x"},
    ),
    "another boundary": (400, "the form is broken", PART, {"content-type": "multipart/form-data; boundary=y"}),
    "a form that ends early": (400, "before its last boundary", PART + png(), {"content-type": FORM}),
    "an empty form": (400, "the form", b"", {"content-type": FORM}),
    "a form without files": (
        422,
        "the form has no file: send each image as a file, such as curl -F images=@photo.jpg",
        b'--x\r\nContent-Disposition: form-data; name="images"\r\n\r\nabc\r\n--x--\r\n',
        {"content-type": FORM},
    ),
    "many fields": (
        413,
        "more than 100 fields",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nabc\r\n' * 101 + b"--x--\r\n",
        {"content-type": FORM},
    ),
    "many files": (
        413,
        "3 images in a request, and 2 are allowed",
        (PART + b"a\r\n") * 3 + b"--x--\r\n",
        {"content-type": FORM},
    ),
    "many in JSON": (
        413,
        "3 images in a request, and 2 are allowed: send several requests",
        json.dumps(in_json(b"a", b"b", b"c")).encode(),
        {"content-type": "application/json"},
    ),
    "many bytes": (413, "more than 100,000 bytes", bytes(100_001), BINARY),
    "many pixels": (413, "more than 10,000 pixels", shade(0, 101), BINARY),
}


@pytest.fixture(scope="module")
def limits() -> Limits:
    return Limits(max_bytes=100_000, max_pixels=10_000, max_images=2, max_queue=2, timeout=5)


def test_whatever_is_wrong_has_a_status_and_a_reason(serving, limits) -> None:
    with serving(limits=limits) as client:
        for name, (status, reason, body, headers) in BAD.items():
            answer = client.post("/predict", content=body, headers=headers)
            assert answer.status_code == status, (name, answer.text)
            through_fastapi = client.post("/predict?topk=5", content=body, headers=headers)
            assert (through_fastapi.status_code, through_fastapi.json()) == (status, answer.json())
            assert list(answer.json()) == ["error"] and reason in answer.json()["error"], (name, answer.text)
        assert client.post("/predict", content=shade(0), headers=BINARY).status_code == 200


def test_what_is_not_there_is_answered_in_json(serving) -> None:
    with serving() as client:
        assert (client.get("/nothing").status_code, client.get("/nothing").json()) == (404, {"error": "Not Found"})
        answer = client.get("/predict")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        answer = client.post("/predict?topk=0", content=shade(0), headers=BINARY)
        assert (answer.status_code, answer.json()["error"][:6]) == (422, "topk: ")


def test_a_body_without_a_length_is_read_until_it_is_too_large(serving, limits) -> None:
    sent: list[int] = []

    def chunks():
        for _ in range(1000):
            sent.append(1)
            yield bytes(1000)

    with serving(limits=limits) as client:
        answer = client.post("/predict", content=chunks(), headers=BINARY)
    assert (answer.status_code, answer.json()) == (413, {"error": "the request has more than 100,000 bytes"})


def test_a_network_that_fails_is_no_fault_of_the_image_and_shows_in_the_health(serving) -> None:
    fails = [False]

    def compute(images: np.ndarray) -> np.ndarray:
        if fails[0]:
            raise RuntimeError("secret")
        return np.full((len(images), 3), 1 / 3, np.float32)

    with serving(compute) as client:
        fails[0] = True
        answer = client.post("/predict", content=shade(0), headers=BINARY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"error": "the network failed; the service's log says why"}
        assert client.get("/healthz").status_code == client.get("/v2/health/ready").status_code == 503
        fails[0] = False
        assert client.post("/predict", content=shade(0), headers=BINARY).status_code == 200
        assert client.get("/healthz").json() == {"status": "ok"}


def test_too_long_a_queue_and_too_long_a_wait_are_refused(serving) -> None:
    may_compute = threading.Event()
    may_compute.set()

    def compute(images: np.ndarray) -> np.ndarray:
        may_compute.wait(30)
        return np.full((len(images), 3), 1 / 3, np.float32)

    limits = Limits(max_images=2, max_queue=2, timeout=0.7)
    with serving(compute, limits=limits) as client:
        may_compute.clear()
        answers: list[Any] = []
        send = lambda: answers.append(client.post("/predict", json=in_json(shade(0), shade(1))))  # noqa: E731
        waiting = threading.Thread(target=send)
        waiting.start()
        until = time.monotonic() + 10
        while "distcls_queue_images 2.0" not in client.get("/metrics").text and time.monotonic() < until:
            time.sleep(0.01)
        full = client.post("/predict", content=shade(0), headers=BINARY)
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        assert full.json() == {"error": "2 images are waiting already. Try again later."}
        waiting.join()
        may_compute.set()
        assert answers[0].status_code == 503
        assert answers[0].json() == {"error": "there was no answer within 0.7 s"}
        assert client.post("/predict", content=shade(0), headers=BINARY).status_code == 200
        assert "distcls_queue_images 0.0" in client.get("/metrics").text


def test_a_token_is_needed_for_everything_but_health(serving) -> None:
    right = {"authorization": "Bearer s3cret"}
    with serving(token="s3cret", health_routes=("/alive",)) as client:
        for path in ("/healthz", "/ping", "/alive", "/v2/health/ready", "/v2/health/live"):
            assert client.get(path).status_code == 200
        for path in ("/metrics", "/v2", "/docs", "/openapi.json", "/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "Authorization: Bearer TOKEN" in answer.json()["error"]
            assert client.get(path, headers=right).status_code in (200, 404)
        for wrong in ("Bearer s3cre", "Basic s3cret", "s3cret", "Bearer", "Bearer \xe9"):
            headers = {"authorization": wrong.encode("latin-1")}
            assert client.post("/predict", content=shade(0), headers=headers).status_code == 401
        assert client.post("/predict", content=shade(0), headers={**BINARY, **right}).status_code == 200
        operation = client.get("/openapi.json", headers=right).json()["paths"]["/predict"]["post"]
        assert operation["security"] == [{"token": []}] and "401" in operation["responses"]


def test_the_ways_to_the_demo_page_need_no_token(serving) -> None:
    with serving(token="s3cret", has_demo=True) as client:
        answer = client.get("/", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "/demo/")
        assert client.get("/demo").status_code == 404  # the page is not mounted in this test
        assert client.get("/metrics").status_code == 401
    with serving(token="s3cret") as client:
        assert client.get("/").status_code == client.get("/demo").status_code == 401


def test_the_routes_that_vertex_ai_asks_for(serving) -> None:
    with serving(predict_routes=("/classify",), health_routes=("/alive", "/ping")) as client:
        assert client.get("/alive").json() == client.get("/ping").json() == {"status": "ok"}
        encoded = base64.b64encode(shade(0)).decode()
        rows = client.post("/classify", json={"instances": [{"b64": encoded}]}).json()["predictions"]
        assert rows[0]["prediction"] == "dark"


def test_metrics_count_requests_by_route_status_and_time(serving) -> None:
    with serving() as client:
        for _ in range(3):
            client.post("/predict", content=shade(0), headers=BINARY)
        client.get("/some/path/that/a/scanner/tries")
        client.request("MADE-UP", "/predict")
        text = client.get("/metrics").text
    assert 'distcls_requests_total{method="POST",route="/predict",status="200"} 3.0' in text
    assert 'distcls_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'distcls_requests_total{method="other",route="/predict",status="405"} 1.0' in text
    assert 'distcls_request_seconds_count{route="/predict"} 4.0' in text
    assert "distcls_batch_size_sum 3.0" in text and "distcls_batch_seconds_count 3.0" in text
    assert "scanner" not in text and "MADE-UP" not in text


def test_metrics_count_what_was_predicted_and_name_the_weights(serving) -> None:
    with serving() as client:
        for _ in range(3):
            client.post("/predict", content=shade(0), headers=BINARY)
        client.post("/predict", content=b"no image", headers=BINARY)
        text = client.get("/metrics").text
    assert 'distcls_predictions_total{class="dark"} 3.0' in text and 'class="light"' not in text
    assert "distcls_confidence_count 3.0" in text and 'distcls_confidence_bucket{le="0.5"} 0.0' in text
    assert 'distcls_model_info{temperature="1.5",weights_sha256="5ha256"} 1.0' in text


def test_when_it_stops_it_says_so(serving) -> None:
    with serving() as client:
        assert "connection" not in client.post("/predict", content=shade(0), headers=BINARY).headers
        client.app.is_stopping = True
        answer = client.post("/predict", content=shade(0), headers=BINARY)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert client.get("/healthz").status_code == 503
