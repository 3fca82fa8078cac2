"""Compares two configs: some settings may change when a run is resumed, others would make it a different run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from distcls.config.durations import Duration, parse_duration
from distcls.config.messages import join
from distcls.config.settings import Config
from distcls.config.yaml_text import as_plain, shown


class Difference(NamedTuple):
    """A setting with different values in two configs, as plain values."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        """Return a line such as "optim.lr: 0.001 -> 0.002"."""
        return f"{self.path}: {shown(self.before)} -> {shown(self.after)}"


def differences(old: Config, new: Config, everything: bool = False) -> list[Difference]:
    """Return the settings that differ: those that change the run or, with `everything`, all of them."""
    return list(_changes(old, new, everything))


def settings_by_path(config: Config) -> dict[str, Any]:
    """Return all settings as plain values by their dotted paths, in their usual order."""
    return {path: as_plain(config.at(path)) for path in _paths(config)}


def _paths(section: Any, path: str = "") -> Iterator[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _paths(value, join(path, field.name))
        else:
            yield join(path, field.name)


def _changes(old: Any, new: Any, everything: bool, path: str = "") -> Iterator[Difference]:
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
            yield from _changes(before, after, everything, join(path, field.name))
        elif (everything or field.metadata["changes_run"]) and not _same(before, after, field.metadata):
            yield Difference(join(path, field.name), as_plain(before), as_plain(after))


def _same(before: Any, after: Any, metadata: Mapping) -> bool:
    if metadata["duration"]:
        return _durations(before) == _durations(after)  # "5" and "5 steps"
    return before == after


def _durations(written: str | list[str] | dict[str, str]) -> list[Duration] | dict[str, Duration]:
    if isinstance(written, dict):
        return {name: parse_duration(one) for name, one in written.items()}
    return [parse_duration(one) for one in ([written] if isinstance(written, str) else written)]
