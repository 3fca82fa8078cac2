"""Reads the class names of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distcls.errors import DiskError
from distcls.files.atomic import read_json


def read_class_names(run_dir: Path) -> list[str]:
    """Return a run's class names, in the order of their ids. Raises DiskError, naming the file, if it is damaged."""
    path = run_dir / "classes.json"
    names = read_result(path)
    if not isinstance(names, list) or not names:
        raise damaged(path, "it is not a list of names")
    return [str(name) for name in names]


def read_result(path: Path) -> Any:
    """Return the content of a JSON file that model/ has a copy of. Raises DiskError if it is damaged or missing."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> DiskError:
    """Return the error for such a file."""
    return DiskError(
        f"{path} is damaged ({reason}). A finished run has a copy in {path.parent / 'model'}; an unfinished one "
        "writes it again when it is resumed."
    )
