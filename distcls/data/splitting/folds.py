"""Refuses folds of which one would have all images of a class, so that none were left to train on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distcls.errors import UsageError, some_of

SHOWN_CLASSES = 5  # in an error message


def refuse_single(
    thing: str, now: np.ndarray, before: np.ndarray, folds: int, class_names: Sequence[str], others: str
) -> None:
    """Raise UsageError if a class has one thing only, which some fold takes.

    thing: "image", or "group" where those are dealt whole. now, before: int64 (C,), how many things each class has,
    and how many it had before test was cut. others: what to add.
    """
    single = np.flatnonzero(now == 1)
    if len(single) == 0:
        return
    names = some_of([class_names[i] for i in single.tolist()], SHOWN_CLASSES)
    whose = f"the class {names} has only 1 {thing}"
    if len(single) > 1:
        whose = f"the classes {names} have only 1 {thing} each"
    had_more = (before[single] > 1).any()
    raise UsageError(
        f"data.folds={folds} needs at least 2 {thing}s of each class, but {whose}"
        f"{' once the test images are held out' if had_more else ''}: the fold with that {thing} in val would have "
        f"none to train on. Fewer folds do not help: add {others}, leave the class out"
        f"{', or set data.test_fraction=0' if had_more else ''}"
    )
