"""Writes predictions: for people, as CSV, or as JSON lines.

Imports no torch, because `distcls predict --help` imports this file and must start fast.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from rich.cells import cell_len

from distcls.files.atomic import printable
from distcls.inference.answers.prediction import Prediction

UNKNOWN = "unknown"
"""The answer if the most probable class is less probable than a threshold."""

DIGITS = 9
"""Significant digits of written probabilities, which tell any two numbers of float32 apart."""


@dataclass
class Answers:
    """Writes answers to a file, row by row. Its subclasses are the formats."""

    file: BinaryIO
    class_names: Sequence[str]
    topk: int | None
    """How many classes to write of each image; None: what suits the format."""
    threshold: float = 0.0
    """Below this probability, the answer is UNKNOWN."""
    width: int | None = None
    """Columns of the terminal that the file is; None if it is none."""

    def begin(self) -> None:
        """Write what comes before the first row."""

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Write a row for each image."""
        raise NotImplementedError

    def add_bad(self, image: str, reason: str) -> None:
        """Write a row for an image that could not be read, if the format has such rows."""

    def label(self, prediction: Prediction) -> str:
        """Return the predicted class, or UNKNOWN."""
        return prediction.label if prediction.probability >= self.threshold else UNKNOWN


class Table(Answers):
    """For people: the path, then classes with probabilities, as many as were asked for or as fit the terminal."""

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Write a line for each image; the lines of one call are aligned."""
        names = [printable(prediction.image or "") for prediction in predictions]
        indent = max(map(cell_len, names), default=0)
        lines = [
            f"{name}{' ' * (indent - cell_len(name))}{self._classes(prediction, indent)}\n"
            for name, prediction in zip(names, predictions, strict=True)
        ]
        self.file.write("".join(lines).encode("utf-8", "replace"))

    def _classes(self, prediction: Prediction, indent: int) -> str:
        """Return the classes, each in a column as wide as the longest name."""
        widest = max(map(cell_len, map(printable, self.class_names)))
        cells = [(name, f"{share:.1%}") for name, share in prediction.topk]
        if prediction.probability < self.threshold:
            widest = max(widest, len(UNKNOWN))
            cells.insert(0, (UNKNOWN, ""))
        texts = [f"  {printable(name)}{' ' * (widest - cell_len(printable(name)))} {text:>6}" for name, text in cells]
        if self.topk is None and self.width is not None:
            fits = (self.width - indent) // max(widest + 9, 1)
            texts = texts[: max(fits, 1)]
        return "".join(texts).rstrip()


class Csv(Answers):
    """CSV: the path, the prediction and its probability, then a column for each class, or for each of the top k.

    The first columns are those of `distcls eval --csv`, without the true class.
    """

    @cached_property
    def _numbers(self) -> str:
        return " ".join([f"%.{DIGITS}g"] * len(self.class_names))

    def begin(self) -> None:
        columns = [f"p_{name}" for name in self.class_names]
        if self.topk is not None:
            numbers = range(1, min(self.topk, len(self.class_names)) + 1)
            columns = [text for number in numbers for text in (f"class_{number}", f"probability_{number}")]
        self._write([["image", "prediction", "confidence", *columns]])

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Write a line for each image."""
        self._write([self._row(prediction) for prediction in predictions])

    def _row(self, prediction: Prediction) -> list[str]:
        if self.topk is None:
            further = (self._numbers % tuple(prediction.probs.tolist())).split()  # at once: one by one takes longer
        else:
            further = [text for name, share in prediction.topk for text in (name, _number(share))]
        return [prediction.image or "", self.label(prediction), _number(prediction.probability), *further]

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.file.write(text.getvalue().encode("utf-8", "surrogateescape"))  # names stay as they are on disk


class JsonLines(Answers):
    """JSON lines: an object for each image, with an "error" if it could not be read."""

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Write a line for each image."""
        for prediction in predictions:
            self._write(as_row(prediction, self.label(prediction)))

    def add_bad(self, image: str, reason: str) -> None:
        self._write({"image": image, "error": reason})

    def _write(self, row: dict[str, object]) -> None:
        # Bytes of names that are not UTF-8 become \\udcXX, which JSON reads back.
        self.file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


FORMATS: dict[str, type[Answers]] = {"table": Table, "csv": Csv, "jsonl": JsonLines}
"""The formats of `distcls predict`, by name."""


def as_row(prediction: Prediction, label: str) -> dict[str, object]:
    """Return a prediction as JSON has it. label: its class, or UNKNOWN."""
    topk = [{"class": name, "probability": float(_number(share))} for name, share in prediction.topk]
    return {"image": prediction.image, "prediction": label, "confidence": topk[0]["probability"], "topk": topk}


def _number(share: float) -> str:
    return f"{share:.{DIGITS}g}"
