"""In what two configs differ: what may change when a run goes on, and what would make it another run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from distcls.config.durations import Duration, parse_duration
from distcls.config.messages import join
from distcls.config.settings import Config
from distcls.config.yaml_text import as_plain, shown


def differences(old: Config, new: Config, everything: bool = False) -> list[str]:
    """Lines such as "optim.lr: 0.001 -> 0.002", for settings that change the run, or for all."""
    return [f"{path}: {shown(before)} -> {shown(after)}" for path, before, after in _changes(old, new, everything)]


def _changes(old: Any, new: Any, everything: bool, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings of both configs that may not differ when a run goes on, or all that differ, with both values."""
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
            yield from _changes(before, after, everything, join(path, field.name))
        elif (everything or field.metadata["changes_run"]) and not _same(before, after, field.metadata):
            yield join(path, field.name), as_plain(before), as_plain(after)


def _same(before: Any, after: Any, metadata: Mapping) -> bool:
    if metadata["duration"]:
        return _durations(before) == _durations(after)  # "5" and "5 steps"
    return before == after


def _durations(written: str | list[str]) -> list[Duration]:
    return [parse_duration(one) for one in ([written] if isinstance(written, str) else written)]
