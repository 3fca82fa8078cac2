"""Sends a run to Trackio, which keeps it on this machine (TRACKIO_DIR), or in a Space that TRACKIO_SPACE_ID names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from distcls.runs.tracking.metrics_file import Row
from distcls.runs.tracking.rows import numbers_of
from distcls.runs.tracking.services.service import PROJECT, About, missing


class Trackio:
    """A run there. Its own step is the number of the row, because training and evaluation rows share steps."""

    def __init__(self, about: About) -> None:
        try:
            import trackio  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise missing("trackio", error) from error
        about.state.setdefault("id", f"{about.name}-{secrets.token_hex(2)}")
        self._trackio, self._project = trackio, os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._name = about.state["id"]
        about.state["url"] = f"trackio show --project {self._project}"
        self._run = trackio.init(
            self._project,
            name=self._name,
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            config={name: str(value) for name, value in about.settings.items()},
            resume="allow",
            embed=False,
        )

    def sent(self) -> int | None:
        """Return how many rows are stored; None for a Space, which cannot be asked quickly."""
        if os.environ.get("TRACKIO_SPACE_ID"):
            return None
        from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

        last = SQLiteStorage.get_max_step_for_run(self._project, self._name)
        return 0 if last is None else last + 1

    def send(self, rows: Sequence[Row], first: int) -> None:
        """Log each row as one step of the service; "step" is a word of its own there."""
        for place, row in enumerate(rows, start=first):
            self._run.log({"training_step": row["step"], **numbers_of(row)}, step=place)

    def end(self, results: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the plots as pictures."""
        plots = [path for path in files if path.suffix == ".png"]
        pictures = {f"plots/{path.stem}": self._trackio.Image(str(path)) for path in plots}
        if pictures:
            self._run.log(pictures, step=max((self.sent() or 1) - 1, 0))  # a step of its own would count as a row

    def close(self) -> None:
        """Wait until the library has stored all of it."""
        self._run.finish()
