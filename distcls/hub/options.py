"""The options of `distcls push`. Imports nothing slow: mistakes are answered before torch is imported."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from distcls.errors import MissingInputError

SPACE_NEEDS = ("onnx", "onnxscript", "onnxruntime")
"""Packages that --space needs: the extra `export`."""

OWNER = "YOUR_NAME"
"""Stands for the owner of a repository that has none yet, in a folder that is only written."""


@dataclass(frozen=True)
class PushOptions:
    """The options of `distcls push`."""

    repo: str
    """NAME, or OWNER/NAME; without an owner, the repository is the user's own."""
    space: bool = False
    dry_run: bool = False
    private: bool = False
    license: str | None = None
    """As the Hub names it, such as "apache-2.0"."""

    @property
    def name(self) -> str:
        """Return the name of the repository, without its owner."""
        return self.repo.rpartition("/")[2]


def check_options(options: PushOptions) -> None:
    """Raise MissingInputError if a package is missing."""
    missing = [name for name in SPACE_NEEDS if options.space and importlib.util.find_spec(name) is None]
    if missing:
        raise MissingInputError(f"--space needs {', '.join(missing)}. Install it: pip install 'distcls[export]'")


def model_folder(run_dir: Path) -> Path:
    """Return where the model's folder is written."""
    return run_dir / "hub" / "model"


def space_folder(run_dir: Path) -> Path:
    """Return where the folder of the Space is written."""
    return run_dir / "hub" / "space"
