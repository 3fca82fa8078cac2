"""Stores a finished run's results in its folder: predictions for each split, and images worth looking at.

    predictions/val.npz  test.npz      every image of a split, with the probability of each class
    pictures/train_batch.png …         sheets of thumbnails, for any image viewer
    pictures/index.json                where each thumbnail is on its sheet

All plots of a run are drawn from these, without its data set or its model.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distcls.errors import DiskError
from distcls.files.atomic import read_json, replacing, write_json

THUMBNAIL = 160
"""Longest side, in pixels, of a stored picture."""
LOSSLESS = 64
"""Pictures up to this many pixels a side are stored losslessly, as PNG; larger ones as JPEG."""
QUALITIES = (92, 80, 60, 40, 20)
LARGEST_SHEET = 900_000
"""Bytes. A larger JPEG gets the next lower quality, so that three sheets stay below 3 MB."""


@dataclass
class Predictions:
    """The best weights' predictions for a split of n images and C classes."""

    names: np.ndarray
    """str (n,), by which a person can find each image: its path, or something like digits/17."""
    labels: np.ndarray
    """int64 (n,), the true class of each image."""
    preds: np.ndarray
    """int64 (n,), the predicted class of each image."""
    confidence: np.ndarray
    """float64 (n,), the probability of that class, not rounded as `probs` may be."""
    probs: np.ndarray
    """float32 or float16 (n, C); (n, K) if only K classes of each image are kept."""
    classes: np.ndarray | None = None
    """int32 (n, K), the classes of these probabilities, the most probable first; None: all classes, in order."""


@dataclass
class Pictures:
    """Images with captions and their positions in the split."""

    pixels: Sequence[np.ndarray]
    """uint8 (H, W, 3) each."""
    captions: Sequence[str] = ()
    """One for each, or none."""
    places: Sequence[int] = ()
    """Positions in the split; empty if that means nothing."""


def save_predictions(run_dir: Path, split: str, predictions: Predictions) -> None:
    """Write predictions/SPLIT.npz atomically. Raises DiskError."""
    path = run_dir / "predictions" / f"{split}.npz"
    arrays = {name: array for name, array in vars(predictions).items() if array is not None}
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}. Make room, then run again.") from error


def load_predictions(run_dir: Path, split: str) -> Predictions | None:
    """Return the predictions for a split; None if there are none. Nothing in the file can run code: no pickles."""
    path = run_dir / "predictions" / f"{split}.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return Predictions(**arrays)


def load_answers(run_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return only the names, labels and preds of the predictions for a split: the probabilities may be large.

    Return None if there are none, or if the file is damaged.
    """
    try:
        with np.load(run_dir / "predictions" / f"{split}.npz", allow_pickle=False) as arrays:
            names, labels, preds = arrays["names"], arrays["labels"], arrays["preds"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    is_valid = names.ndim == 1 and names.shape == labels.shape == preds.shape and len(names)
    return (names, labels, preds) if is_valid and labels.dtype.kind == preds.dtype.kind == "i" else None


def save_pictures(run_dir: Path, pictures: Mapping[str, Pictures]) -> None:
    """Write sheets of thumbnails, pictures/NAME.png or .jpg. Raises DiskError."""
    folder = run_dir / "pictures"
    try:
        folder.mkdir(exist_ok=True)
        index = {name: _save_sheet(folder, name, some) for name, some in pictures.items()}
        write_json(folder / "index.json", index)
    except OSError as error:
        raise DiskError(f"cannot write {folder}: {error.strerror or error}. Make room, then run again.") from error


def load_pictures(run_dir: Path) -> dict[str, Pictures]:
    """Return all pictures of a run, by name; none if it has not finished."""
    folder = run_dir / "pictures"
    if not (folder / "index.json").exists():
        return {}
    index = read_json(folder / "index.json")
    return {name: _load_sheet(folder, entry) for name, entry in index.items()}


def _save_sheet(folder: Path, name: str, pictures: Pictures) -> dict:
    """Write a sheet, and return its entry in the index."""
    thumbnails = [_thumbnail(pixels) for pixels in pictures.pixels]
    height, width = (max((t.shape[side] for t in thumbnails), default=1) for side in (0, 1))
    columns = math.ceil(math.sqrt(max(len(thumbnails), 1)))
    sheet = np.full((math.ceil(max(len(thumbnails), 1) / columns) * height, columns * width, 3), 255, np.uint8)
    for (top, left), thumbnail in zip(_corners(len(thumbnails), columns, height, width), thumbnails, strict=True):
        sheet[top : top + thumbnail.shape[0], left : left + thumbnail.shape[1]] = thumbnail
    suffix = "png" if max(height, width) <= LOSSLESS else "jpg"
    (folder / f"{name}.{suffix}").write_bytes(_encode(Image.fromarray(sheet), suffix))
    return {
        "file": f"{name}.{suffix}",
        "columns": columns,
        "cell": [height, width],
        "sizes": [thumbnail.shape[:2] for thumbnail in thumbnails],
        "captions": list(pictures.captions),
        "places": [int(place) for place in pictures.places],
    }


def _load_sheet(folder: Path, entry: Mapping) -> Pictures:
    with Image.open(folder / Path(entry["file"]).name, formats=("PNG", "JPEG")) as image:
        sheet = np.asarray(image.convert("RGB"))
    corners = _corners(len(entry["sizes"]), entry["columns"], *entry["cell"])
    pixels = [
        sheet[top : top + height, left : left + width]
        for (top, left), (height, width) in zip(corners, entry["sizes"], strict=True)
    ]
    return Pictures(pixels, entry["captions"], entry["places"])


def _corners(number: int, columns: int, height: int, width: int) -> list[tuple[int, int]]:
    """Return the top and left of each thumbnail on its sheet."""
    return [(index // columns * height, index % columns * width) for index in range(number)]


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    if max(pixels.shape[:2]) <= THUMBNAIL:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image)


def _encode(sheet: Image.Image, suffix: str) -> bytes:
    file = io.BytesIO()
    if suffix == "png":
        sheet.save(file, "PNG", optimize=True)
        return file.getvalue()
    for quality in QUALITIES:
        file = io.BytesIO()
        sheet.save(file, "JPEG", quality=quality, subsampling=0)
        if file.tell() <= LARGEST_SHEET:
            break
    return file.getvalue()
