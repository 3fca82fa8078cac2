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

from distcls.files.atomic import naming_disk_errors, read_json, replacing, write_json

EXPLAINED = "explained.json"
"""File of a run folder: its model's layers, size and speed, and why its report lacks something."""

THUMBNAIL, SMALL_THUMBNAIL = 160, 96
"""Longest side, in pixels, of a stored picture; of one on a sheet of more than MANY."""
MANY = 64
LOSSLESS = 64
"""Pictures up to this many pixels a side are stored losslessly, as PNG; larger ones as JPEG."""
QUALITIES = (92, 80, 60, 40, 20, 10)
LARGEST = 2_700_000
"""Bytes of all sheets together. One that takes more than its share of what is left gets a lower quality."""

UNREADABLE = (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for an archive that is damaged, or is none."""


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


@dataclass(frozen=True)
class Sheet:
    """A file with many thumbnails, each at the top left of its cell."""

    content: bytes
    """A PNG or JPEG file."""
    columns: int
    cell: tuple[int, int]
    """Height and width, in pixels, of each thumbnail's place on the sheet."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of each thumbnail."""
    captions: Sequence[str]
    places: Sequence[int]
    """See `Pictures`."""

    def corners(self) -> list[tuple[int, int]]:
        """Return the top and left of each thumbnail."""
        return _corners(len(self.sizes), self.columns, *self.cell)


def save_predictions(run_dir: Path, split: str, predictions: Predictions) -> None:
    """Write predictions/SPLIT.npz atomically. Raises DiskError."""
    path = run_dir / "predictions" / f"{split}.npz"
    arrays = {name: array for name, array in vars(predictions).items() if array is not None}
    with naming_disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)


def load_predictions(run_dir: Path, split: str) -> Predictions | None:
    """Return the predictions for a split; None if there are none. Nothing in the file can run code: no pickles.

    Raises OSError or one of UNREADABLE if the file is damaged.
    """
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
    except (OSError, *UNREADABLE):
        return None
    is_valid = names.ndim == 1 and names.shape == labels.shape == preds.shape and len(names)
    return (names, labels, preds) if is_valid and labels.dtype.kind == preds.dtype.kind == "i" else None


def save_pictures(run_dir: Path, pictures: Mapping[str, Pictures]) -> None:
    """Write sheets of thumbnails, pictures/NAME.png or .jpg: 3 MB at most in all. Raises DiskError."""
    folder = run_dir / "pictures"
    index, room = {}, LARGEST
    with naming_disk_errors(folder):
        folder.mkdir(exist_ok=True)
        for place, (name, some) in enumerate(pictures.items()):
            index[name], size = _save_sheet(folder, name, some, room // (len(pictures) - place))
            room -= size
        write_json(folder / "index.json", index)


def load_pictures(run_dir: Path) -> dict[str, Pictures]:
    """Return all pictures of a run, by name; none if it has not finished."""
    return {name: cut(sheet) for name, sheet in load_sheets(run_dir).items()}


def load_sheets(run_dir: Path) -> dict[str, Sheet]:
    """Return all pictures of a run as they are stored, by name; none if it has not finished."""
    folder = run_dir / "pictures"
    if not (folder / "index.json").exists():
        return {}
    return {
        name: Sheet(
            (folder / Path(entry["file"]).name).read_bytes(),
            entry["columns"],
            tuple(entry["cell"]),
            [tuple(size) for size in entry["sizes"]],
            entry["captions"],
            entry["places"],
        )
        for name, entry in read_json(folder / "index.json").items()
    }


def _save_sheet(folder: Path, name: str, pictures: Pictures, most_bytes: int) -> tuple[dict, int]:
    """Write a sheet; return its entry in the index, and its size in bytes."""
    longest = THUMBNAIL if len(pictures.pixels) <= MANY else SMALL_THUMBNAIL
    thumbnails = [_thumbnail(pixels, longest) for pixels in pictures.pixels]
    height, width = (max((t.shape[side] for t in thumbnails), default=1) for side in (0, 1))
    columns = math.ceil(math.sqrt(max(len(thumbnails), 1)))
    sheet = np.full((math.ceil(max(len(thumbnails), 1) / columns) * height, columns * width, 3), 255, np.uint8)
    for (top, left), thumbnail in zip(_corners(len(thumbnails), columns, height, width), thumbnails, strict=True):
        sheet[top : top + thumbnail.shape[0], left : left + thumbnail.shape[1]] = thumbnail
    content, suffix = _encode(Image.fromarray(sheet), max(height, width) <= LOSSLESS, most_bytes)
    (folder / f"{name}.{suffix}").write_bytes(content)
    entry = {
        "file": f"{name}.{suffix}",
        "columns": columns,
        "cell": [height, width],
        "sizes": [thumbnail.shape[:2] for thumbnail in thumbnails],
        "captions": list(pictures.captions),
        "places": [int(place) for place in pictures.places],
    }
    return entry, len(content)


def cut(sheet: Sheet) -> Pictures:
    """Return the pictures on a sheet."""
    with Image.open(io.BytesIO(sheet.content), formats=("PNG", "JPEG")) as image:
        pixels = np.asarray(image.convert("RGB"))
    pieces = [
        pixels[top : top + height, left : left + width]
        for (top, left), (height, width) in zip(sheet.corners(), sheet.sizes, strict=True)
    ]
    return Pictures(pieces, sheet.captions, sheet.places)


def _corners(number: int, columns: int, height: int, width: int) -> list[tuple[int, int]]:
    return [(index // columns * height, index % columns * width) for index in range(number)]


def _thumbnail(pixels: np.ndarray, longest: int) -> np.ndarray:
    if max(pixels.shape[:2]) <= longest:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest))
    return np.asarray(image)


def _encode(sheet: Image.Image, lossless: bool, most_bytes: int) -> tuple[bytes, str]:
    """Return the file and its suffix: PNG if that is asked for and small enough, else a JPEG of fitting quality."""
    file = io.BytesIO()
    if lossless:
        sheet.save(file, "PNG", optimize=True)
        if file.tell() <= most_bytes:
            return file.getvalue(), "png"
    for quality in QUALITIES:
        file = io.BytesIO()
        sheet.save(file, "JPEG", quality=quality, subsampling=0)
        if file.tell() <= most_bytes:
            break
    return file.getvalue(), "jpg"
