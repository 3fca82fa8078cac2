"""Turns YAML files and `key=value` arguments into settings, and reports every mistake with its place and a fix.

Overrides change what yaml_text.py has read. The result is checked against the type hints and ranges in settings.py,
and contradictions.py looks for settings that conflict. Nothing here is slow to import. Every error is a UsageError.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args, get_origin

from distcls.config.contradictions import contradictions, overlap
from distcls.config.durations import parse_duration
from distcls.config.messages import join, mismatch, not_a_section, unknown_setting
from distcls.config.migrations import migrate
from distcls.config.schema import alternatives, hint_at, hints_of, is_section, split_optional
from distcls.config.settings import PRESETS, AugmentConfig, Config
from distcls.config.yaml_text import Given, read_override, read_yaml
from distcls.errors import UsageError

FOLDER_SETTINGS = ("data.root", "data.cache_dir", "model.init_from", "model.weights", "run.dir")
"""Settings in which ~ means the home folder."""


def load_config(path: str | Path | None, overrides: Sequence[str] = (), unless_set: Sequence[str] = ()) -> Config:
    """Return the config of a new run: a YAML file (or the defaults) with overrides such as "optim.lr=1e-3".

    `unless_set` are overrides for settings that neither the file nor `overrides` sets. Without a file, the preset is
    auto. The batch sizes must fit the number of processes, WORLD_SIZE. Raises UsageError, which lists all mistakes.
    """
    mistakes = Mistakes()
    root = read_yaml(Path(path)) if path is not None else Given({}, "the defaults")
    if path is not None and _is_of_a_run(Path(path)):
        migrate(root)
    _override(root, overrides, mistakes)
    for keys, given in map(read_override, unless_set):
        found = root.at(*keys)
        if found is None or found.value is None:
            _put(root, keys, given)
    if path is None and root.at("preset") is None:
        _put(root, ["preset"], Given("auto", "the defaults", "auto"))
    return _build(root, world_size(), mistakes)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return a run's saved config, whatever the number of processes now. Raises UsageError.

    Configs of earlier versions are migrated (migrations.py). Only `overrides` are checked for contradictions, because
    this version may know more of them than the one that started the run.
    """
    mistakes = Mistakes()
    root = read_yaml(Path(path))
    migrate(root)
    _override(root, overrides, mistakes)
    return _build(root, 1, mistakes, judged=overrides)


def with_preset(config: Config, name: str) -> Config:
    """Return the config with a preset's settings, or those of none, in place of those that were not given.

    Raises UsageError if what was given contradicts the preset.
    """
    with_recipe = config.replaced({"preset": name}) if name == "none" else _on_recipe(config, name)
    mistakes = Mistakes()
    for _, problem in contradictions(with_recipe, world_size()):
        mistakes.note(f"preset={name}: {problem}")
    mistakes.report()
    return with_recipe


def _on_recipe(config: Config, name: str) -> Config:
    root = read_yaml(PRESET_FOLDER / f"{name}.yaml")
    recipe = _section(Config, root, "", Mistakes())
    open_paths = [path for path in _leaves(root) if not config.is_given(path)]
    # A section that is off cannot be changed in part: it is taken whole.
    whole = {
        parent for parent, _, _ in (path.rpartition(".") for path in open_paths) if parent and config.at(parent) is None
    }
    values = {path: recipe.at(path) for path in [*whole, *open_paths] if path.rpartition(".")[0] not in whole}
    if any(map(config.is_given, LENGTHS)):
        values = {path: value for path, value in values.items() if path not in LENGTHS}
    if config.is_given("model.freeze"):
        values.pop("model.freeze_until", None)
    on_recipe = config.replaced({**values, "preset": name})
    wrong = [path for path, _ in contradictions(on_recipe, world_size())]
    useless = [path for path in values if any(overlap(path, other) for other in wrong)]
    for path in useless:  # what was given leaves them without effect
        del values[path]
    return config.replaced({**values, "preset": name}) if useless else on_recipe


def _leaves(root: Given, kind: type = Config, path: str = "") -> Iterator[str]:
    """Yield the paths of the settings that have a value; "augment: none" gives all but augment.normalize."""
    if kind is AugmentConfig and (root.text == OFF or _is_off(root)):
        yield from (join(path, name) for name in hints_of(kind) if name != "normalize")
    for key, given in root.value.items() if isinstance(root.value, dict) else ():
        hint, may_be_off = split_optional(hints_of(kind).get(key))
        if is_section(hint) and not (may_be_off and (given.value is None or not given.value)):
            yield from _leaves(given, hint, join(path, key))
        else:
            yield join(path, key)


def _is_of_a_run(path: Path) -> bool:
    return path.name == "config.yaml" and (path.parent / "status.json").exists()


class Mistakes:
    """Collects the mistakes in a config, so that all can be reported at once."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.unsure: list[str] = []
        """Settings and sections without a valid value, so that whatever depends on them cannot be checked."""

    def note(self, message: str, path: str = "") -> None:
        """Add a mistake in the setting or section at `path`; "optim.groups[0].match" counts as optim.groups."""
        if message not in self.messages:
            self.messages.append(message)
        if path:
            self.unsure.append(path.partition("[")[0])

    def report(self) -> None:
        """Raise UsageError if there are any mistakes, with a line for each."""
        if len(self.messages) > 1:
            lines = "\n  ".join(self.messages)
            raise UsageError(f"the config has {len(self.messages)} mistakes:\n  {lines}")
        if self.messages:
            raise UsageError(self.messages[0])


PRESET_FOLDER = Path(__file__).parent.parent / "presets"

LENGTHS = ("train.num_epochs", "train.num_steps")
"""Two ways to say how long a run is: only one of them counts."""

OFF = "none"
"""How all augmentation is switched off: "augment: none"."""

_WRONG = object()
"""Marks a setting without a valid value."""


def _override(root: Given, overrides: Sequence[str], mistakes: Mistakes) -> None:
    changes: list[tuple[list[str], Given]] = []
    for override in overrides:
        try:
            changes += _opened(*read_override(override))
        except UsageError as error:
            mistakes.note(str(error))
    _drop_replaced(root, changes)
    for keys, given in changes:
        _put(root, keys, given)


def _opened(keys: list[str], given: Given) -> Iterator[tuple[list[str], Given]]:
    """Yield the settings in an override: `optim={lr: 0.1}` changes only optim.lr, and the rest of the section stays.

    A section that may be off, such as optim.lookahead, is replaced as a whole.
    """
    parent = hint_at(keys[:-1])
    if isinstance(given.value, dict) and is_section(parent) and is_section(hints_of(parent).get(keys[-1])):
        for key, inner in given.value.items():
            yield from _opened([*keys, key], inner)
    else:
        yield keys, given


def _drop_replaced(root: Given, changes: list[tuple[list[str], Given]]) -> None:
    """Let num_steps on the command line replace num_epochs from the file, and vice versa, and run.name its run.dir."""
    changed = [".".join(keys) for keys, given in changes if given.value is not None]
    for setting, other in (LENGTHS, LENGTHS[::-1], ("run.name", "run.dir")):
        section, name = other.split(".")
        given = root.at(section)
        if setting in changed and other not in changed and given is not None and isinstance(given.value, dict):
            given.value.pop(name, None)


def _put(root: Given, keys: list[str], given: Given) -> None:
    """Set the value at `keys`, in place, and create the mappings that lead there.

    A value where a section must be is kept, and reported later.
    """
    mapping = root.value
    for depth, key in enumerate(keys[:-1], 1):
        there = mapping.get(key)
        if there is None or not isinstance(there.value, dict):
            if there is not None and not _gives_way(there, keys[:depth]):
                return
            is_off = there is not None and _is_no_augmentation(there, keys[:depth])
            mapping[key] = Given({}, given.where, OFF if is_off else "")
        mapping = mapping[key].value
    if _is_no_augmentation(given, keys):
        given = Given(_only_normalize(mapping.get("augment")), given.where, OFF)
    mapping[keys[-1]] = given


def _gives_way(there: Given, keys: list[str]) -> bool:
    """True if a mapping may replace a value: null, "none" for augment, or anything where no section is expected."""
    return there.value is None or _is_no_augmentation(there, keys) or not _is_section_at(keys)


def _is_section_at(keys: list[str]) -> bool:
    return is_section(hint_at(keys))


def _is_no_augmentation(given: Given, keys: list[str]) -> bool:
    return keys == ["augment"] and _is_off(given)


def _is_off(given: Given) -> bool:
    """True for "none" and null, but not for a section with nothing under it."""
    return given.value == OFF or (given.value is None and given.text != "")


def _only_normalize(augment: Given | None) -> dict[str, Given]:
    """Return only augment.normalize: without augmentation, the model should still see the same pixel values."""
    settings = augment.value if augment is not None and isinstance(augment.value, dict) else {}
    return {key: given for key, given in settings.items() if key == "normalize"}


def _build(root: Given, world_size: int, mistakes: Mistakes, judged: Sequence[str] | None = None) -> Config:
    """Return the settings. judged: the overrides to check for contradictions; None: check everything."""
    given = frozenset(_leaves(root))
    _choose_length(root)
    config: Config = _section(Config, root, "", mistakes)
    config = config.noting(given - {"preset"} if config.preset == "auto" else given)  # auto leaves it open
    if config.preset in PRESETS:
        config = _on_recipe(config, config.preset)
    for path, problem in contradictions(config, world_size, mistakes.unsure):
        place = root.at(*path.split("."))
        if judged is None or (place is not None and place.where in judged):
            where = "" if place is None or problem.startswith(place.where) else f"{place.where}: "  # say it only once
            mistakes.note(where + problem)
    mistakes.report()
    return config


def world_size() -> int:
    """Return how many processes a launcher started: WORLD_SIZE, or 1. Raises UsageError if it is no such number."""
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"the environment variable WORLD_SIZE must be a number of processes, but is {text!r}")
    return int(text)


def _choose_length(root: Given) -> None:
    """Let num_steps replace the default num_epochs."""
    train = root.at("train")
    num_steps = root.at("train", "num_steps")
    if train is not None and num_steps is not None and num_steps.value is not None:
        train.value.setdefault("num_epochs", Given(None, num_steps.where))


def _section(kind: type, given: Given, path: str, mistakes: Mistakes) -> Any:
    """Return an instance of a dataclass from settings.py. A missing or empty section keeps its defaults."""
    if given.value is None or (kind is AugmentConfig and _is_off(given)):
        given = Given({}, given.where)
    if not isinstance(given.value, dict):
        mistakes.note(not_a_section(given, kind, path), path)
        return kind()
    hints = hints_of(kind)
    for key, value in given.value.items():
        if key not in hints:
            mistakes.note(unknown_setting(key, value, kind, path), path)
    values = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.name in given.value or dataclasses.is_dataclass(hint):
            value = given.value.get(field.name, Given({}, given.where))
            values[field.name] = _convert(value, hint, field.metadata, join(path, field.name), mistakes)
    return kind(**{name: value for name, value in values.items() if value is not _WRONG})


def _convert(given: Given, hint: Any, limits: Mapping, path: str, mistakes: Mistakes) -> Any:
    """Return the value of a setting, checked against its type hint and range; _WRONG after noting a mistake."""
    inner, optional = split_optional(hint)
    if given.value is None and optional:
        return None
    inner = _alternative(given, inner)
    if is_section(inner):
        return _section(inner, given, path, mistakes)
    try:
        if get_origin(inner) is list:
            return _list(given, inner, limits, path, mistakes)
        if get_origin(inner) is dict:
            return _dict(given, inner, limits, path, mistakes)
        return _scalar(given, inner, limits, path)
    except (ValueError, OverflowError):
        wanted = dict if get_origin(inner) is dict else hint
        mistakes.note(mismatch(given, wanted, limits, path), path)
        return _WRONG


def _alternative(given: Given, hint: Any) -> Any:
    """Return the part of a hint such as `bool | Literal["x"]` that the value's form suggests."""
    kinds = {part: {dict: dict, Literal: str}.get(get_origin(part), part) for part in alternatives(hint)}
    if len(kinds) == 1:
        return hint
    return next((part for part, kind in kinds.items() if isinstance(given.value, kind)), next(iter(kinds)))


def _list(given: Given, hint: Any, limits: Mapping, path: str, mistakes: Mistakes) -> list[Any]:
    if not isinstance(given.value, list):
        raise ValueError("not a list")
    (item_hint,) = get_args(hint)
    items = enumerate(given.value)
    values = [_convert(item, item_hint, limits, f"{path}[{index}]", mistakes) for index, item in items]
    return [value for value in values if value is not _WRONG]


def _dict(given: Given, hint: Any, limits: Mapping, path: str, mistakes: Mistakes) -> dict[str, Any]:
    if given.value is not None and not isinstance(given.value, dict):
        raise ValueError("not a mapping")
    _, item_hint = get_args(hint)
    if item_hint is Any:
        return given.plain() or {}
    items = (given.value or {}).items()
    values = {key: _convert(item, item_hint, limits, f"{path}.{key}", mistakes) for key, item in items}
    return {key: value for key, value in values.items() if value is not _WRONG}


def _scalar(given: Given, hint: Any, limits: Mapping, path: str) -> Any:
    value = _read_scalar(given, hint)
    _check_limits(value, limits)
    return os.path.expanduser(value) if path in FOLDER_SETTINGS else value


def _read_scalar(given: Given, hint: Any) -> Any:
    """Return the value as bool, int, float, str or one of the choices.

    Raises ValueError if it is not one, and OverflowError for an integer that is too large for a float.
    """
    if get_origin(hint) is Literal:
        return _one_of(given.text, get_args(hint))
    if hint is str and (isinstance(given.value, str) or _is_number(given.value)):
        return given.text
    if hint is float and _is_number(given.value) and math.isfinite(given.value):
        return float(given.value)
    if hint is int and _is_number(given.value):
        return _whole(given)
    if hint is bool and isinstance(given.value, bool):
        return given.value
    raise ValueError(f"not {hint}")


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"not one of {choices}")
    return text


def _whole(given: Given) -> int:
    """Return a whole number, such as 1000 or 1e3. Raises ValueError for 1000.0, which looks like a mistake."""
    if isinstance(given.value, float) and not ("e" in given.text.lower() and given.value.is_integer()):
        raise ValueError("not a whole number")
    return int(given.value)


def _check_limits(value: Any, limits: Mapping) -> None:
    if limits.get("duration"):
        parse_duration(value)
    out_of_range = (
        ("minimum" in limits and value < limits["minimum"])
        or ("above" in limits and value <= limits["above"])
        or ("maximum" in limits and value > limits["maximum"])
        or ("below" in limits and value >= limits["below"])
    )
    if out_of_range:
        raise ValueError("out of range")
