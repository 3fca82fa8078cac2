"""Defines what the connection to a tracking service does, and what it gets to know about a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distcls.errors import UsageError
from distcls.runs.tracking.metrics_file import Row

PROJECT = "distcls"
"""The project, or experiment, that runs belong to unless the service's own environment variable names another."""

MODEL = "model"
"""The folder of a finished run that holds its weights."""


@dataclass(frozen=True)
class About:
    """A run, for a service."""

    dir: Path
    name: str
    settings: Mapping[str, Any]
    """The config, by dotted path."""
    token: str
    """Identifies the run, so that what it created there is found again even if a kill came before its id was saved."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the service has to know when the run is resumed, such as its own id for it. It is kept in the run folder."""


class Service(Protocol):
    """A connection to a service, for one run. Constructing one connects, and may raise any exception."""

    def __init__(self, about: About) -> None:
        """Connect, and put into about.state what finds the run again."""
        ...

    def sent(self) -> int | None:
        """Return how many rows the service has; None if it cannot tell."""
        ...

    def send(self, rows: Sequence[Row], first: int) -> None:
        """Send rows of metrics.csv; the first of them is row number `first` of those that are final."""
        ...

    def end(self, tested: Row | None, files: Sequence[Path]) -> None:
        """Send a finished run's test row, if it has one, and its files."""
        ...

    def close(self) -> None:
        """Make sure that all is sent, or kept by the service's library to be sent."""
        ...


def missing(library: str, error: ImportError) -> UsageError:
    """Return the error for a library that is not installed."""
    return UsageError(f"run.trackers names {library}, which is not installed ({error}): pip install {library}")
