"""Reads a CSV file that lists images, one per line, with their path, label and optionally split."""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distcls.config.settings import DataConfig
from distcls.config.wording import nearest
from distcls.data.sources.folder import SPLIT_FOLDERS, FolderSet, existing_file, pack
from distcls.data.sources.image_set import Groups, ImageSet
from distcls.data.sources.listing import MISSING, Listing, list_files
from distcls.errors import BadDataError, MissingInputError, UsageError

# Lines to read at once. A million rows of Python strings would take 300 MB; and once 700 lists are alive, the garbage
# collector scans them again and again, which makes reading three times slower.
CHUNK = 500

SYNONYMS = {
    "path": ("file", "filename", "file_name", "filepath", "image", "image_path", "img", "id", "image_id"),
    "label": ("class", "class_name", "category", "target", "y"),
    "split": ("set", "subset", "partition"),
}
"""Other names that people give the columns. They are suggested, not accepted: a wrong guess would go unnoticed."""

Row = list[str]
CsvReader = Any
""" `_csv.reader`, which has no public name."""


@dataclass
class Table:
    """A CSV file with a valid header."""

    file: str
    header: Row
    delimiter: str

    def position(self, name: str) -> int | None:
        """Return the position of a column, whose name may be in capitals; None if there is no such column."""
        return next((i for i, column in enumerate(self.header) if column.lower() == name), None)

    def needed(self, name: str, expected: str) -> int:
        """Return the position of a column. Raises BadDataError if there is no such column."""
        position = self.position(name)
        if position is None:
            raise BadDataError(
                f"{self.file} line 1: the header has no column {name!r}, only "
                f"{', '.join(map(repr, self.header)) or 'nothing'}.{_meant(name, self.header)} Expected: {expected}"
            )
        return position

    @contextlib.contextmanager
    def reader(self) -> Iterator[CsvReader]:
        """Iterate over the fields of each line below the header; empty lines have none."""
        with open(self.file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True)
            next(reader)
            yield reader

    def error(self, is_wrong: Callable[[Row], bool], message: Callable[[Row], str]) -> BadDataError:
        """Return the error for the first wrong line. Reads the file again, which only files with mistakes need."""
        with self.reader() as reader:
            row = next(row for row in reader if row and is_wrong(row))
            return BadDataError(f"{self.file} line {reader.line_num}: {message(row)}")


@dataclass
class Manifest(Table):
    """A CSV file of labeled images; the numbers are positions of columns."""

    path: int
    label: int
    split: int | None
    group: int | None


@dataclass
class _Part:
    """One split, as far as the file has been read."""

    listings: list[Listing] = field(default_factory=list)
    label_ids: list[np.ndarray] = field(default_factory=list)
    group_ids: list[np.ndarray] = field(default_factory=list)
    """Empty without a column for groups."""


def open_csv(config: DataConfig) -> dict[str, ImageSet]:
    """Return the images that a CSV file lists; data.root is the file, and paths are relative to its folder.

    The header names the columns: path, label, optionally split (train, val or test) and the one that data.groups
    names; others are ignored. Without a split column, splits are cut. Labels are class names, sorted as numbers if all
    of them are whole numbers, else alphabetically. Raises MissingInputError, UsageError and BadDataError, which names
    the line.
    """
    file = existing_file(config)
    with _explaining_unreadable(file):
        manifest = _read_manifest(file, config.groups)
        parts, label_ids, group_ids = _read(manifest)
    _check_files_exist(file, parts)
    return _image_sets(manifest, parts, label_ids, group_ids)


def csv_paths(file: str) -> list[str]:
    """Return the column `path` of a CSV file, whatever its other columns are, with the file's folder before each path.

    Raises MissingInputError and BadDataError.
    """
    with _explaining_unreadable(file):
        table = _read_header(file)
        column = table.needed("path", "path, and any other columns")
        with table.reader() as reader:
            folder = os.path.dirname(file)
            return [os.path.join(folder, row[column]) for row in reader if len(row) > column and row[column]]


@contextlib.contextmanager
def _explaining_unreadable(file: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MissingInputError(f"cannot read {error.filename or file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadDataError(f"{file} is not UTF-8 text ({error.reason}): save it with that encoding") from error
    except csv.Error as error:
        raise BadDataError(f"{file} cannot be read as a CSV file: {error}") from error


def _read_header(file: str) -> Table:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
    delimiter = max(",;\t", key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    return Table(file, header, delimiter)


def _read_manifest(file: str, groups: str | None) -> Manifest:
    table = _read_header(file)
    path, label = (table.needed(name, "path,label or path,label,split") for name in ("path", "label"))
    split = table.position("split")
    if split is None and _meant("split", table.header):
        raise BadDataError(
            f"{file} line 1: the header has no column 'split'.{_meant('split', table.header)} Or remove it"
        )
    group = None if groups is None else _group_column(table, groups)
    return Manifest(file, table.header, table.delimiter, path, label, split, group)


def _group_column(table: Table, groups: str) -> int | None:
    """Return the position of the column that data.groups names; None if it is a regular expression for paths."""
    position = table.position(groups.lower())
    if position is None and "(" not in groups:
        raise UsageError(
            f"data.groups={groups}: the header of {table.file} has no such column, only "
            f"{', '.join(map(repr, table.header))}.{nearest(groups, table.header)} Give one of them, or an expression "
            r"for paths with parentheses around the name of the group, such as data.groups='(patient\d+)_'"
        )
    return position


def _meant(name: str, header: Row) -> str:
    """Return " Rename …" if a column looks like the missing one."""
    synonym = next((column for column in header if column.lower() in SYNONYMS[name]), None)
    if synonym:
        return f" Rename {synonym!r} to {name!r}."
    return nearest(name, header)


def _read(manifest: Manifest) -> tuple[dict[str, _Part], dict[str, int], dict[str, int]]:
    """Return the parts, and a number for each label and for each group as spelled in the file."""
    parts: defaultdict[str, _Part] = defaultdict(_Part)
    labels: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    groups: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    with manifest.reader() as reader:
        while rows := list(itertools.islice(reader, CHUNK)):
            for split, in_split in _cut(manifest, list(filter(None, rows))):
                if not in_split:  # all of these lines were blank
                    continue
                part, columns = parts[split], list(zip(*in_split, strict=True))
                part.listings.append(list_files(os.path.dirname(manifest.file), columns[manifest.path]))
                part.label_ids.append(_numbers(columns[manifest.label], labels))
                if manifest.group is not None:
                    part.group_ids.append(_numbers(columns[manifest.group], groups))
    return dict(parts), dict(labels), dict(groups)


def _numbers(words: Sequence[str], numbering: Mapping[str, int]) -> np.ndarray:
    return np.fromiter(map(numbering.__getitem__, words), np.int64, len(words))


def _cut(manifest: Manifest, rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Check these rows, and yield the split and the rows that are in it. Raises BadDataError."""
    width = len(manifest.header)
    if not set(map(len, rows)) <= {width}:
        raise manifest.error(lambda row: len(row) != width, lambda row: f"{len(row)} fields, the header has {width}")
    columns = list(zip(*rows, strict=True)) or [()] * width
    for name, position in (("path", manifest.path), ("label", manifest.label)):
        if not all(columns[position]):
            raise manifest.error(lambda row, at=position: not row[at], lambda _, name=name: f"the {name} is empty")
    if manifest.split is None:
        yield "train", rows
        return
    splits = columns[manifest.split]
    split_of = {word: SPLIT_FOLDERS.get(word.strip().lower()) for word in set(splits)}
    if None in split_of.values():
        at = manifest.split
        raise manifest.error(
            lambda row: split_of.get(row[at], "") is None,
            lambda row: (
                f"the split {row[at]!r} is none of {', '.join(SPLIT_FOLDERS)}.{nearest(row[at], SPLIT_FOLDERS)}"
            ),
        )
    for split in sorted(set(map(str, split_of.values()))):
        yield split, [row for row, word in zip(rows, splits, strict=True) if split_of[word] == split]


def _check_files_exist(file: str, parts: dict[str, _Part]) -> None:
    """Raise MissingInputError if all files are missing, as with a wrong folder. A few missing files are bad images."""
    listings = [listing for part in parts.values() for listing in part.listings]
    if listings and all((listing.sizes == MISSING).all() for listing in listings):
        first = os.path.join(os.path.dirname(file), listings[0].split_paths()[0])
        raise MissingInputError(
            f"none of the images listed in {file} exist; the first is {first}. "
            "Paths are relative to the CSV file's folder: move the file, or use absolute paths"
        )


def _image_sets(
    manifest: Manifest, parts: dict[str, _Part], numbering: dict[str, int], groups: dict[str, int]
) -> dict[str, ImageSet]:
    if "train" not in parts:
        raise BadDataError(f"{manifest.file} lists no images{' for the train split' if parts else ''}")
    names = [label.strip() for label in numbering]
    in_train = np.unique(np.concatenate(parts["train"].label_ids))
    class_names = _sorted({names[number] for number in in_train})
    position = {name: label for label, name in enumerate(class_names)}
    labels = np.array([position.get(name, -1) for name in names], np.int64)
    image_sets: dict[str, ImageSet] = {}
    for split, part in parts.items():
        of_split = labels[np.concatenate(part.label_ids)]
        if of_split.min() < 0:
            raise _unknown_class(manifest, class_names)
        of_column = Groups.numbered(groups, np.concatenate(part.group_ids)) if part.group_ids else None
        image_sets[split] = _pack(manifest, class_names, of_split, part.listings, of_column)
    return image_sets


def _sorted(names: set[str]) -> list[str]:
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))  # "1" and "01" are two classes
    return sorted(names)


def _unknown_class(manifest: Manifest, class_names: list[str]) -> BadDataError:
    known, at = set(class_names), manifest.label
    return manifest.error(
        lambda row: row[at].strip() not in known,
        lambda row: (
            f"the class {row[at].strip()!r} has no training images.{nearest(row[at], class_names)} "
            "Rename it, or add lines for it to the train split"
        ),
    )


def _pack(
    manifest: Manifest, class_names: list[str], labels: np.ndarray, listings: list[Listing], groups: Groups | None
) -> FolderSet:
    folder = os.path.dirname(manifest.file)
    return pack(folder, [""] * len(class_names), class_names, labels, listings, groups=groups)
