"""Compares configs: some settings may change when a run is resumed, others would make it a different run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def settings_that_differ(configs: Sequence[Config], everything: bool = False) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all configs, in their usual order: a plain value for each config.

    everything: see `differences`. If a section is switched off in one of them, it counts as one setting.
    """
    found = {one.path for config in configs[1:] for one in differences(configs[0], config, everything)}
    whole = [path for path in found if not any(path.startswith(f"{other}.") for other in found)]
    order = list(_paths(configs[0]))
    whole.sort(key=lambda path: next((i for i, one in enumerate(order) if f"{one}.".startswith(f"{path}.")), 0))
    return {path: [as_plain(config.at(path)) for config in configs] for path in whole}


def recipe(config: Config, without: Iterable[str] = ()) -> str:
    """Return a text that configs share if no setting that changes the run differs, apart from those `without`."""
    return repr(_comparable(config.replaced(dict.fromkeys(without))))


def _paths(section: Any, path: str = "") -> Iterator[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _paths(value, join(path, field.name))
        else:
            yield join(path, field.name)


def _comparable(section: Any) -> list[Any]:
    values = [(field, getattr(section, field.name)) for field in dataclasses.fields(section)]
    return [
        (field.name, _comparable(value) if dataclasses.is_dataclass(value) else _meaning(value, field.metadata))
        for field, value in values
        if dataclasses.is_dataclass(value) or field.metadata["changes_run"]
    ]


def _changes(old: Any, new: Any, everything: bool, path: str = "") -> Iterator[Difference]:
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
            yield from _changes(before, after, everything, join(path, field.name))
        elif (everything or field.metadata["changes_run"]) and not _same(before, after, field.metadata):
            yield Difference(join(path, field.name), as_plain(before), as_plain(after))


def _same(before: Any, after: Any, metadata: Mapping) -> bool:
    return _meaning(before, metadata) == _meaning(after, metadata)


def _meaning(value: Any, metadata: Mapping) -> Any:
    """Return what is equal for settings that mean the same, such as the durations "5" and "5 steps"."""
    return _durations(value) if metadata["duration"] and value is not None else value


def _durations(written: str | list[str] | dict[str, str]) -> list[Duration] | dict[str, Duration]:
    if isinstance(written, dict):
        return {name: parse_duration(one) for name, one in written.items()}
    return [parse_duration(one) for one in ([written] if isinstance(written, str) else written)]
