"""Messages about settings that do not exist or have invalid values."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from distcls.config.schema import alternatives, hints_of, is_section, split_optional
from distcls.config.settings import AugmentConfig, Config
from distcls.config.wording import either
from distcls.config.yaml_text import Given

NAMES_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "batch_size": "train.global_batch_size",
    "epochs": "train.num_epochs",
    "max_epochs": "train.num_epochs",
    "dropout": "model.args.dropout",
    "drop": "model.args.dropout",
    "checkpoint": "model.init_from",
    "transfer_learning": "model.pretrained",
    "gradient_checkpointing": "train.checkpoint_activations",
    "grad_checkpointing": "train.checkpoint_activations",
    "patience": "train.early_stopping",
    "amp": "train.precision",
    "optimizer": "optim.name",
    "scheduler": "optim.schedule",
    "num_workers": "data.workers",
}
"""Settings by the names that other tools use for them."""


def join(path: str, key: str) -> str:
    """Return the dotted path of a setting in the section at `path`; "" is the whole config."""
    return f"{path}.{key}" if path else key


@functools.cache
def _all_paths(kind: type = Config, path: str = "") -> tuple[str, ...]:
    """Return the dotted path of every section and setting."""
    paths = []
    for name, hint in hints_of(kind).items():
        paths.append(join(path, name))
        if is_section(hint):
            paths.extend(_all_paths(hint, join(path, name)))
    return tuple(paths)


def unknown_setting(key: str, given: Given, kind: type, path: str) -> str:
    """Return the message for an unknown key in the section `kind` at `path`, with suggestions."""
    return f"{given.where}: unknown setting {join(path, key)}: {_suggest(key, path, kind)}"


def _suggest(key: str, path: str, kind: type) -> str:
    """Return suggestions for an unknown key: the same name in another section, or a similar one."""
    known = list(hints_of(kind))
    same = [] if "[" in path else _called(key)
    near = [name if "[" in path else join(path, name) for name in difflib.get_close_matches(key, known, n=2)]
    candidates = same or near or settings_like(key)
    if candidates:
        return f"did you mean {either(map(repr, candidates))}?"
    return f"{path or 'a config'} has {', '.join(known)}"


def settings_like(path: str) -> list[str]:
    """Return the dotted paths that may be meant by "lr", "train.lr", "epochs" or "learning_rate"."""
    if path in _all_paths():
        return [path]
    key = path.rpartition(".")[2]
    names = {known.rpartition(".")[2] for known in _all_paths()}
    return _called(key) or _ending_in(difflib.get_close_matches(key, names, n=3, cutoff=0.7))


def _called(key: str) -> list[str]:
    """Return the settings with this name, in distcls or in other tools."""
    return _ending_in([key]) or [path for name, path in NAMES_ELSEWHERE.items() if name == key]


def _ending_in(names: Sequence[str]) -> list[str]:
    return [path for path in _all_paths() if path.rpartition(".")[2] in names]


def not_a_section(given: Given, kind: type, path: str) -> str:
    """Return the message for a value given in place of the section `kind` at `path`."""
    hint = ", or 'none' to turn it off" if kind is AugmentConfig else ""
    settings = ", ".join(hints_of(kind))
    return f"{given.where}: {path} is a section with the settings {settings}{hint}, but {given.shown()} was given"


def mismatch(given: Given, hint: Any, limits: Mapping, path: str) -> str:
    """Return the message for a value of the wrong type, or out of range, for the setting at `path`."""
    literals = [part for part in alternatives(hint) if get_origin(part) is Literal]
    expected, choices = _expected(hint, limits), [choice for part in literals for choice in get_args(part)]
    near = difflib.get_close_matches(given.text, choices, n=1)
    meant = f", did you mean {near[0]!r}?" if near else ""
    doc = f" ({limits['doc']})" if "doc" in limits else ""
    return f"{given.where}: {path} must be {expected}, but {given.shown()} was given{meant}{doc}"


def _expected(hint: Any, limits: Mapping) -> str:
    inner, optional = split_optional(hint)
    return _expected_kind(inner, limits) + (" or null" if optional else "")


def _expected_kind(hint: Any, limits: Mapping) -> str:
    if len(alternatives(hint)) > 1:
        return " or ".join(_expected_kind(part, limits) for part in alternatives(hint))
    if get_origin(hint) is Literal:
        return ("one of " if len(get_args(hint)) > 1 else "") + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is list:
        return f"a list, each item of which is {_expected(get_args(hint)[0], limits)}"
    if hint is str and limits.get("duration"):
        return "a duration such as '500 steps', '1 epoch', '0.5 epochs' or '10%'"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, "a mapping") + _range(limits)


def _range(limits: Mapping) -> str:
    words = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}
    parts = [f"{word} {_readable(limits[name])}" for name, word in words.items() if name in limits]
    return f" {' and '.join(parts)}" if parts else ""


def _readable(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) and limit < 10**18 else str(limit)
