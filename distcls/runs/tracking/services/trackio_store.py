"""Sends a run to Trackio, which keeps it on this machine (TRACKIO_DIR), or in a Space that TRACKIO_SPACE_ID names."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
        about.state.setdefault("id", f"{about.name}-{about.token[:4]}")
        self._trackio, self._project = trackio, os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._state, self._name = about.state, about.state["id"]
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

    def end(self, tested: Row | None, files: Sequence[Path]) -> None:
        """Log the numbers of the test split, and the plots as pictures."""
        plots = [path for path in files if path.suffix == ".png"]
        last = {f"plots/{path.stem}": self._trackio.Image(str(path)) for path in plots}
        last |= numbers_of(tested) if tested else {}
        if last:  # beside the last row, because a step of its own would count as a row
            self._run.log(last, step=max(self._state.get("rows", 0) - 1, 0))

    def close(self) -> None:
        """Wait until the library has stored all of it."""
        self._run.finish()
