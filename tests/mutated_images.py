"""Images with flipped bytes, cut ends and foreign headers: nothing may crash, and whatever is broken is named.

    python tests/mutated_images.py --count 200

The suite takes fewer of them through the same code (end_to_end/test_bad_input.py).
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Command = Callable[..., str]
"""Runs `distcls WORD …`, fails where its exit code is not `expect`, and gives what it printed."""

SOURCES = {
    "jpg": ("JPEG", "RGB", {}),
    "jpeg": ("JPEG", "L", {"progressive": True}),
    "png": ("PNG", "RGB", {}),
    "gif": ("GIF", "P", {}),
    "webp": ("WEBP", "RGB", {}),
    "tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff": ("TIFF", "I;16", {"compression": "tiff_adobe_deflate"}),
    "bmp": ("BMP", "RGB", {}),
}
CLASSES = ("a", "b")
NUM_GOOD = 10  # of each class, so that there is something to train on


def write_images(root: Path, count: int, seed: int) -> list[str]:
    """Good images and `count` mutated ones of two classes under root; the paths of those that Pillow rejects."""
    draw = np.random.default_rng(seed)
    whole = {suffix: encode(draw, *source) for suffix, source in SOURCES.items()}
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(NUM_GOOD):
            (root / name / f"good{i}.png").write_bytes(encode(draw, "PNG", "RGB", {}))
    suffixes = list(SOURCES)
    for i in range(count):
        suffix, other = suffixes[i % len(suffixes)], suffixes[int(draw.integers(len(suffixes)))]
        content = mutate(draw, whole[suffix], whole[other])
        (root / CLASSES[i % 2] / f"mutated{i:03}.{suffix}").write_bytes(content)
    return [str(path.relative_to(root)) for path in sorted(root.glob("*/*")) if not _can_be_decoded(path)]


def encode(draw: np.random.Generator, format: str, mode: str, options: dict) -> bytes:
    values = np.kron(draw.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))) + draw.integers(0, 9, (48, 64, 3))
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((values[..., 0] * 250).astype(np.uint16))
    file = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(file, format, **options)
    return file.getvalue()


def mutate(draw: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """One kind of damage, somewhere."""
    changed = bytearray(content)
    place = int(draw.integers(len(changed)))
    match int(draw.integers(6)):
        case 0:
            return bytes(changed[:place])
        case 1:
            for where in draw.integers(0, len(changed), 1 + int(draw.integers(20))):
                changed[where] ^= 1 << int(draw.integers(8))
        case 2:  # where sizes and types stand
            for where in draw.integers(0, min(len(changed), 64), 1 + int(draw.integers(4))):
                changed[where] = int(draw.integers(256))
        case 3:
            size = int(draw.integers(4, 64))
            changed[:size] = other[:size]
        case 4:
            changed[place : place + 200] = bytes(len(changed[place : place + 200]))
        case _:
            del changed[place : place + 1 + int(draw.integers(100))]
    return bytes(changed)


def _can_be_decoded(path: Path) -> bool:
    """Asked of Pillow alone, so that distcls is not its own judge."""
    with warnings.catch_warnings(action="ignore"):
        try:
            with Image.open(path) as image:
                image.load()
                image.convert("RGB")
        except Exception:
            return False
    return True


def check_that_all_is_named(folder: Path, distcls: Command, count: int, seed: int) -> tuple[int, int]:
    """Through check, train and predict. How many images Pillow rejects, and how many distcls leaves out."""
    rejected = write_images(folder / "images", count, seed)
    distcls("check", "images", "--json", "found.json", expect=65)
    named = _reasons(json.loads((folder / "found.json").read_text())["bad_files"])
    assert set(rejected) <= set(named), f"not named: {sorted(set(rejected) - set(named))}"
    assert all(named.values()), named
    settings = ["data.max_bad_fraction=1", "data.image_size=16", "train.num_steps=2", "train.num_threads=1"]
    distcls("train", "--data", "images", "--name", "memory", *settings)
    distcls("train", "--data", "images", "--name", "disk", *settings, "data.cache=0", "data.workers=0")
    for name in ("memory", "disk"):
        report = json.loads((folder / "runs" / name / "data_report.json").read_text())
        assert _reasons(report["bad_files"]) == named
    told = distcls("predict", "runs/memory", "images", "--output", "found.jsonl")
    in_predict = dict(re.findall(r"^warning: images/(\S+): (.+)$", told, re.MULTILINE))
    assert in_predict == named, f"predict names others: {set(in_predict.items()) ^ set(named.items())}"
    assert "Warning" not in told and "Traceback" not in told, told
    rows = [json.loads(line) for line in (folder / "found.jsonl").read_text().splitlines()]
    check_python_names(folder, {row["image"]: row for row in rows})
    return len(rejected), len(named)


def check_python_names(folder: Path, rows: dict[str, dict]) -> None:
    """In Python, each image has the prediction of `distcls predict`, or is an error that names it."""
    import distcls
    from distcls.errors import BadDataError

    model = distcls.load(folder / "runs" / "memory", "cpu")
    for name, row in rows.items():
        try:
            found = model.predict(folder / name)
            assert found.label == row["prediction"] and abs(found.probability - row["confidence"]) < 1e-6, row
        except BadDataError as error:
            assert str(error) == f"{folder / name}: {row['error']}"


def _reasons(bad_files: list[dict[str, str]]) -> dict[str, str]:
    return {file["path"]: file["reason"] for file in bad_files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def distcls(*words: str, expect: int = 0) -> str:
            command = [sys.executable, "-m", "distcls", *words]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
            output = done.stdout + done.stderr
            assert done.returncode == expect, f"{words} ended with {done.returncode}:\n{output[-3000:]}"
            return output

        rejected, named = check_that_all_is_named(Path(folder), distcls, options.count, options.seed)
        print(f"{options.count} mutated files: Pillow rejects {rejected}, distcls names {named} and crashes at none")


if __name__ == "__main__":
    main()
