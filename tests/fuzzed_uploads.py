"""Sends broken uploads to a service: each must get the answer of `distcls predict`, or an error with a reason.

    python tests/fuzzed_uploads.py runs/digits --count 1000

The suite sends fewer of them through the same code (end_to_end/test_serving.py).
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mutated_images import SOURCES, encode, mutate
from served import Served, png

from distcls.cli import main as distcls

TIMEOUT = 3
"""Seconds that the service waits for a sender."""

CLIENTS = 6


@dataclass
class Upload:
    """A request, and the image file in it that `distcls predict` is asked about; None: the request must fail."""

    kind: str
    body: bytes
    headers: dict[str, str]
    image: bytes | None


def uploads(count: int, seed: int) -> Iterator[Upload]:
    """Broken requests, the same ones for the same seed."""
    draw = np.random.default_rng(seed)
    whole = {suffix: encode(draw, *source) for suffix, source in SOURCES.items()}
    suffixes = list(whole)
    for _ in range(count):
        suffix, other = (suffixes[int(draw.integers(len(suffixes)))] for _ in range(2))
        image = mutate(draw, whole[suffix], whole[other]) if draw.random() < 0.8 else whole[suffix]
        yield _upload(draw, image, suffix)


def _upload(draw: np.random.Generator, image: bytes, suffix: str) -> Upload:
    raw, in_json = {"content-type": f"image/{suffix}"}, {"content-type": "application/json"}
    form = {"content-type": "multipart/form-data; boundary=xyz"}
    text = json.dumps({"images": [base64.b64encode(image).decode()]}).encode()
    match int(draw.integers(20)):
        case 0:
            return Upload("form", _form(image), form, image)
        case 1:
            return Upload("JSON", text, in_json, image)
        case 2:
            return Upload("cut form", _form(image)[: -1 - int(draw.integers(len(image)))], form, None)
        case 3:
            body = bytearray(_form(image))
            body[int(draw.integers(60))] ^= 1 << int(draw.integers(7))
            return Upload("damaged form", bytes(body), form, image)
        case 4:
            return Upload("cut JSON", text[: int(draw.integers(len(text)))], in_json, None)
        case 5:
            wrong = ["text/html", "application/pdf", "audio/mpeg", "x", ";;", "multipart/mixed"]
            return Upload("wrong type", image, {"content-type": wrong[int(draw.integers(len(wrong)))]}, None)
        case 6:
            made_up = [b"", b"\x00", b"<svg/>", b"%PDF-1.7", b"%!PS\nshowpage", b"PK\x03\x04", draw.bytes(300)]
            content = made_up[int(draw.integers(len(made_up)))]
            return Upload("no image", content, raw, content)
        case 7:
            content = _huge(draw)
            return Upload("huge", content, raw, content)
        case 8:
            return Upload("other JSON", b'{"images": {"a": [1, null]}}', in_json, None)
    return Upload("image", image, raw, image)


def _form(image: bytes) -> bytes:
    head = b'--xyz\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    return head + image + b"\r\n--xyz--\r\n"


def _huge(draw: np.random.Generator) -> bytes:
    """A small file that claims to be a huge image."""
    side = int(draw.integers(14_000, 2**31 - 1))
    content = bytearray(png(0, 16))
    if draw.random() < 0.5:
        struct.pack_into(">II", content, 16, side, side)
        return bytes(content)
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 100, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99)


def predicted(run_dir: Path, images: list[bytes], folder: Path) -> list[dict[str, Any]]:
    """The rows of `distcls predict` for image files."""
    names = []
    for number, image in enumerate(images):
        path = folder / f"{number:05}.img"
        path.write_bytes(image)
        names.append(str(path))
    listing, output = folder / "list.csv", folder / "answers.jsonl"
    listing.write_text("path\n" + "\n".join(names) + "\n")
    assert distcls(["predict", str(run_dir), str(listing), "--output", str(output), "--workers", "0"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    by_name = {row["image"]: row for row in rows}
    return [by_name[name] for name in names]


def send(service: Served, one: Upload) -> tuple[int, dict[str, Any]]:
    """The status of an answer, and its JSON."""
    connection = service.connection()
    try:
        connection.request("POST", "/predict", one.body, one.headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def send_slowly(service: Served, number: int) -> int:
    """Send part of a request and wait; the status, or 0 if the connection was closed. Some leave without waiting."""
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall((head + bytes(300))[: (10, 60, len(head) + 100)[number % 3]])
        if number % 4 == 3:
            return 0
        connection.settimeout(10 * TIMEOUT)
        answer = connection.recv(1000)
        return int(answer.split()[1]) if answer else 0


def fuzz(service: Served, run_dir: Path, count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """How often each kind got each status, and what was not as it should be. The service must have TIMEOUT."""
    sent = list(uploads(count, seed))
    rows = iter(predicted(run_dir, [one.image for one in sent if one.image is not None], folder))
    expected = [None if one.image is None else next(rows) for one in sent]
    with ThreadPoolExecutor(CLIENTS) as pool:
        slow = [pool.submit(send_slowly, service, number) for number in range(max(4, count // 50))]
        answers = list(pool.map(lambda one: send(service, one), sent))
        slow_statuses = {future.result() for future in slow}
    outcomes = Counter(f"{one.kind}: {status}" for one, (status, _) in zip(sent, answers, strict=True))
    wrong = [f"slow: {slow_statuses}"] if not slow_statuses <= {0, 408} else []
    for one, (status, answer), row in zip(sent, answers, expected, strict=True):
        wrong += [f"{one.kind}: {problem}" for problem in _problems(one, status, answer, row)]
    return outcomes, wrong


def _problems(one: Upload, status: int, answer: dict[str, Any], row: dict[str, Any] | None) -> Iterator[str]:
    if status == 200:
        if row is None or "error" in row:
            yield f"accepted, but distcls predict says {row}"
        elif not _is_same(answer["predictions"][0], row):
            yield f"{answer} is not {row}"
    elif not (400 <= status < 500 or status == 503) or list(answer) != ["error"] or not answer["error"]:
        yield f"{status} {answer}"
    elif row is not None and "error" not in row and one.kind != "damaged form":
        yield f"refused with {status} {answer}, but distcls predict accepts it"


def _is_same(found: dict[str, Any], row: dict[str, Any]) -> bool:
    pairs = zip(found["topk"], row["topk"], strict=True)
    return all(abs(a["probability"] - b["probability"]) < 1e-6 for a, b in pairs) and _is_same_class(found, row)


def _is_same_class(found: dict[str, Any], row: dict[str, Any]) -> bool:
    is_tie = abs(row["topk"][0]["probability"] - row["topk"][1]["probability"]) < 2e-6
    return is_tie or found["prediction"] == row["prediction"]


def is_of_libtiff(line: str) -> bool:
    """True for a line that libtiff writes to stderr by itself, about a broken file."""
    return re.match(r"(TIFF|ZIP|LZW|Fax|tempfile\.tif)", line) is not None


def main() -> None:
    """Print what became of the uploads; exit code 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Served(options.run, "--timeout", str(TIMEOUT)) as service:
        outcomes, wrong = fuzz(service, options.run, options.count, options.seed, Path(folder))
        try:
            status = service.request("POST", "/predict", png(), content_type="image/png")[0]
        except (OSError, http.client.HTTPException) as error:
            wrong.append(f"the service is gone: {error!r}")
        else:
            outcomes[f"alive afterwards: {status}"] += 1
        code, errors = service.stop()
    print("\n".join(f"{number:6} {outcome}" for outcome, number in sorted(outcomes.items())))
    errors = "\n".join(line for line in errors.splitlines() if not is_of_libtiff(line))
    print(f"exit code {code}, stderr {errors!r}, {time.monotonic() - began:.0f} s")
    print("\n".join(["wrong:", *wrong]) if wrong else "all as it should be")
    sys.exit(1 if wrong or code or errors else 0)


if __name__ == "__main__":
    main()
