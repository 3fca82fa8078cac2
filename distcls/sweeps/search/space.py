"""Reads what a sweep searches: values and ranges of settings, and named variants.

    optim.lr=1e-4..1e-2@log      a range, drawn evenly on a logarithmic scale
    model.args.width=8..64@step=8
    augment.mixup=0,0.2          a list of values

A YAML file holds the same, and variants: sets of settings with a name, which are one dimension together.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from distcls.config.schema import hint_at, is_section
from distcls.config.yaml_text import Given, read_override, read_yaml
from distcls.errors import UsageError

Value = str | int | float
"""A number from a range, or the text of one of the values in a list."""

Point = Mapping[str, Value]
"""A value for each dimension, by its name."""

VARIANT = "variant"
"""Name of the dimension that the variants of a file make."""

NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(?:@(?:(log)|step=({NUMBER})))?")
SHAPE = "LOW..HIGH, LOW..HIGH@log or LOW..HIGH@step=STEP"

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
"""A variant's name, which names folders."""

OWN = ("run.", "data.fold")
"""Settings that a sweep sets itself, or that are no choice between recipes."""


@dataclass(frozen=True)
class Dimension:
    """A setting with its values: a list of texts, or a range of numbers."""

    name: str
    where: str
    """Where it was given, for messages."""
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    is_whole: bool = False

    def listed(self) -> list[Value] | None:
        """Return all values, or None if a range has too many to list."""
        if self.choices:
            return list(self.choices)
        if self.step is None:
            return None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        low, step = Decimal(str(self.low)), Decimal(str(self.step))  # as typed: in floats, 3 * 0.1 exceeds 0.3
        values = [min(float(low + i * step), self.high) for i in range(count)]
        return [int(value) if self.is_whole else value for value in values]

    def extremes(self) -> list[Value]:
        """Return the values that show whether all of them are allowed: every one of a list, the ends of a range."""
        ends: list[Value] = [self.low, self.high]
        return list(self.choices) or [int(end) if self.is_whole else end for end in ends]

    def described(self) -> str | list[str]:
        """Return the dimension as a space file has it."""
        if self.choices:
            return list(self.choices)
        low, high = map(text_of, self.extremes())
        is_plain = self.step is None or (self.is_whole and self.step == 1)
        return f"{low}..{high}" + ("@log" if self.log else "" if is_plain else f"@step={text_of(self.step)}")


@dataclass(frozen=True)
class Variant:
    """A named set of settings, perhaps on a config file of its own."""

    settings: tuple[str, ...]
    config: Path | None = None


@dataclass(frozen=True)
class Space:
    """The dimensions of a search."""

    dimensions: tuple[Dimension, ...]
    variants: Mapping[str, Variant]

    def searches(self, name: str) -> bool:
        """True if this setting is one of the dimensions."""
        return any(dimension.name == name for dimension in self.dimensions)

    def settings(self, point: Point) -> list[str]:
        """Return a point's settings as arguments of `distcls train`; those of its variant come first."""
        variant = self.variants.get(str(point.get(VARIANT)))
        words = list(variant.settings) if variant else []
        return words + [f"{name}={text_of(value)}" for name, value in point.items() if name != VARIANT]

    def config_file(self, point: Point) -> Path | None:
        """Return the config file of the point's variant, or None if that has none of its own."""
        variant = self.variants.get(str(point.get(VARIANT)))
        return variant.config if variant else None

    def points_with(self, fixed: Point) -> Iterator[Point]:
        """Yield points with these values: beside nothing else (but the first variant), and with the first and the last
        values of the other dimensions. A value may be right only together with others."""
        others = [dimension for dimension in self.dimensions if dimension.name not in fixed]
        yield {**{other.name: other.extremes()[0] for other in others if other.name == VARIANT}, **fixed}
        for end in (0, -1):
            yield {**{other.name: other.extremes()[end] for other in others}, **fixed}

    def grid(self) -> Iterator[dict[str, Value]]:
        """Yield all points, the first dimension changing slowest. Raises UsageError for a range without steps."""
        listed = [(dimension, dimension.listed()) for dimension in self.dimensions]
        for dimension, values in listed:
            if values is None:
                ends = ",".join(map(text_of, dimension.extremes()))
                raise UsageError(
                    f"{dimension.where}: a grid needs a list of values, and this is a range. Write "
                    f"{dimension.name}={ends}, add @step=STEP, or search it with --search random or --search tpe"
                )
        names = [dimension.name for dimension in self.dimensions]
        for values in itertools.product(*[values or [] for _, values in listed]):
            yield dict(zip(names, values, strict=True))

    def is_listed(self) -> bool:
        """True if every dimension is a list, so that a grid is the natural search."""
        return all(dimension.choices for dimension in self.dimensions)

    def described(self) -> dict[str, Any]:
        """Return the space as plain values, to be stored and compared."""
        found: dict[str, Any] = {one.name: one.described() for one in self.dimensions if one.name != VARIANT}
        if self.variants:
            found["variants"] = {
                name: [*([f"config={variant.config}"] if variant.config else []), *variant.settings]
                for name, variant in self.variants.items()
            }
        return found


def read_space(file: Path | None, words: Sequence[str]) -> tuple[Space, list[str]]:
    """Return the space of a file and of arguments, and the arguments that are plain settings. Raises UsageError."""
    dimensions, variants = _of_file(file) if file is not None else ([], {})
    fixed = []
    for word in words:
        found = _of_argument(word)
        if found is None:
            fixed.append(word)
        else:
            dimensions.append(found)
    if not dimensions:
        raise UsageError(
            "a sweep needs something to search: a list such as augment.mixup=0,0.2, a range such as "
            "optim.lr=1e-4..1e-2@log, or a file, --space FILE"
        )
    for first, second in itertools.combinations(dimensions, 2):
        if first.name == second.name:
            raise UsageError(f"{second.where}: {second.name} is searched already, in {first.where}: leave one out")
    for dimension in dimensions:
        if dimension.name.startswith(OWN):
            raise UsageError(
                f"{dimension.where}: {dimension.name} cannot be searched: the sweep sets it for each trial"
            )
        for word in fixed:
            if word.startswith(f"{dimension.name}="):
                raise UsageError(f"{word}: {dimension.name} is searched, {dimension.where}: leave one of them out")
    return Space(tuple(dimensions), variants), fixed


def _of_argument(word: str) -> Dimension | None:
    """Return the dimension of an argument such as `optim.lr=1e-4..1e-2`; None if it is a plain setting."""
    name, _, text = word.partition("=")
    if _is_range(text):
        return _range(name, text.strip(), word)
    try:
        _, given = read_override(f"{name}=[{text}]")
    except UsageError:
        return None
    if not isinstance(given.value, list) or len(given.value) < 2:
        return None
    return _list(name, given, word)


def _of_file(file: Path) -> tuple[list[Dimension], dict[str, Variant]]:
    root = read_yaml(file)
    variants: dict[str, Variant] = {}
    dimensions = []
    for name, given in root.value.items():
        if name == "variants":
            variants = _variants(given)
            dimensions.append(Dimension(VARIANT, given.where, tuple(variants)))
        else:
            dimensions += [_of_value(path, value) for path, value in _settings(name, given)]
    return dimensions, variants


def _of_value(name: str, given: Given) -> Dimension:
    where = f"{given.where}: {name}"
    if isinstance(given.value, list) and given.value:
        return _list(name, given, where)
    if isinstance(given.value, str) and _is_range(given.value):
        return _range(name, given.value.strip(), where)
    raise UsageError(
        f"{where} must be a list of values, such as [0, 0.2], or a range, {SHAPE}, but {given.shown()} was given. One "
        "value is a setting: give it in the config, -c FILE, or as an argument"
    )


def _variants(given: Given) -> dict[str, Variant]:
    if not isinstance(given.value, dict) or not given.value:
        raise UsageError(
            f"{given.where}: variants must be names with settings, such as {{baseline: {{}}, dropout: "
            f"{{model.args.dropout: 0.3}}}}, but {given.shown()} was given"
        )
    return {name: _variant(name, one) for name, one in given.value.items()}


def _variant(name: str, given: Given) -> Variant:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{given.where}: a variant's name is that of a folder: use letters, digits, - and _, not {name!r}"
        )
    if given.value is not None and not isinstance(given.value, dict):
        raise UsageError(f"{given.where}: variant {name} must be settings, {{SETTING: VALUE}}, not {given.shown()}")
    config, settings = None, []
    for key, value in (given.value or {}).items():
        if key == "config":
            config = Path(str(value.plain())).expanduser()
            continue
        settings += [f"{path}={as_argument(one)}" for path, one in _settings(key, value)]
    return Variant(tuple(settings), config)


def _settings(name: str, given: Given) -> Iterator[tuple[str, Given]]:
    """Yield the settings in a value, by their paths: sections are opened, the value of a setting is not."""
    if isinstance(given.value, dict) and given.value and is_section(hint_at(name.split("."))):
        for key, value in given.value.items():
            yield from _settings(f"{name}.{key}", value)
    else:
        yield name, given


def as_argument(given: Given) -> str:
    """Return a value so that `key=TEXT` reads it back: as it was typed, if that does."""
    plain = given.plain()
    text = given.text if not isinstance(plain, list | dict) else ""
    if text:
        try:
            if read_override(f"key={text}")[1].plain() == plain:
                return text
        except UsageError:
            pass
    return json.dumps(plain, ensure_ascii=False)


def _list(name: str, given: Given, where: str) -> Dimension:
    choices = tuple(as_argument(item) for item in given.value)
    if len(set(choices)) < len(choices):
        raise UsageError(f"{where}: a value is listed twice: leave one of them out")
    return Dimension(name, where, choices)


def _is_range(text: str) -> bool:
    return re.match(rf"\s*{NUMBER}\.\.", text) is not None


def _range(name: str, text: str, where: str) -> Dimension:
    match = RANGE.fullmatch(text)
    if match is None:
        raise UsageError(f"{where}: {text} is no range: write {SHAPE}")
    low, high = float(match[1]), float(match[2])
    log, step = match[3] is not None, None if match[4] is None else float(match[4])
    if low >= high:
        raise UsageError(f"{where}: the range is empty, because {match[1]} is not below {match[2]}")
    if log and low <= 0:
        raise UsageError(f"{where}: a logarithmic range must begin above 0, not at {match[1]}")
    if step is not None and not 0 < step <= high - low:
        raise UsageError(f"{where}: the step must be above 0, and at most {text_of(high - low)}, not {match[4]}")
    typed = [part for part in (match[1], match[2], match[4]) if part]
    is_whole = all(part.lstrip("+-").isdecimal() for part in typed) and hint_at(name.split(".")) is not float
    if is_whole and not log and step is None:
        step = 1.0
    return Dimension(name, where, (), low, high, step, log, is_whole)


def text_of(value: Value | None) -> str:
    """Return a value as an argument of `distcls train` has it."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
