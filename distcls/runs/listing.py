"""Finds run folders among the folders that a user names, and gives them short names for a table."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from distcls.errors import MissingInputError
from distcls.runs.opening import check_run_folder

SIGNS = ("config.yaml", "status.json", "metrics.csv")
"""A folder with one of these files is, or was, a run folder."""


def find_runs(given: Sequence[Path]) -> list[Path]:
    """Return the folders that are runs, and the runs directly inside those that are not, each once.

    The order is that of `given`, and by name inside a folder. Raises MissingInputError if one leads to no run.
    """
    found: dict[Path, Path] = {}
    for path in given:
        for run_dir in [path] if is_run(path) else _runs_inside(path):
            found.setdefault(run_dir.resolve(), run_dir)
    return list(found.values())


def short_names(run_dirs: Sequence[Path]) -> list[str]:
    """Return what tells run folders apart: their names, or their paths from the folder that they share."""
    paths = [os.path.abspath(path) for path in run_dirs]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [os.path.relpath(path, shared) for path in paths]


def is_run(path: Path) -> bool:
    """True if a folder is, or was, a run folder."""
    return any(os.path.isfile(path / name) for name in SIGNS)


def _runs_inside(path: Path) -> list[Path]:
    if not path.is_dir():
        check_run_folder(path, [])  # raises, with the names of runs beside it
    try:
        runs = [child for child in path.iterdir() if is_run(child)]
    except OSError as error:
        raise MissingInputError(f"{path}: cannot list this folder ({error.strerror}).") from error
    if not runs:
        raise MissingInputError(
            f"{path} is not a run folder, and has none in it: give run folders such as runs/digits, or a folder of "
            "them such as runs/."
        )
    return sorted(runs, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort digits-10 after digits-2."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
