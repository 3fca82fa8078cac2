"""Phrases that messages share: alternatives, counts, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SAME_IN_PLURAL = ("cpu", "cuda", "mps")

ANOTHER_RUN = "start another run, with another --name or run.dir"
"""As `for_another_run`, where the config is not known."""


def either(options: Iterable[object]) -> str:
    """Return "1", "1 or 2", "1, 2 or 3"."""
    words = [str(option) for option in options]
    return " or ".join(([", ".join(words[:-1])] if words[:-1] else []) + words[-1:])


def count(number: int, thing: str) -> str:
    """Return "1 batch", "3 batches", "1,200 images"."""
    plural = "es" if thing.endswith(("s", "ch")) else "s"
    return f"{number:,} {thing}{'' if number == 1 or thing in SAME_IN_PLURAL else plural}"


def for_another_run(run_dir: str | None) -> str:
    """Return what to do for another run. run_dir: the setting run.dir; where it is set, a name would have no effect."""
    return "give another run.dir=DIR" if run_dir else "start another run with --name NAME"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean …?" with the most similar known word, or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
