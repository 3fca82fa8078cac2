"""From YAML files and `key=value` words to settings: every mistake is named, with its place and a way out.

What was written is first read into `Given` values, which remember where they stand (`configs/x.yaml:12`, or
the override itself); overrides replace some of them; then they are checked against the type hints and ranges of
config.py; last, config_checks.py looks for settings that contradict each other. Nothing here is slow to
import. Every error is a UsageError.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args, get_origin

import yaml

from distcls.config import AugmentConfig, Config
from distcls.config_checks import contradictions, either
from distcls.config_schema import alternatives, hints_of, is_section, split_optional
from distcls.durations import Duration, parse_duration
from distcls.errors import UsageError

FOLDER_SETTINGS = ("data.root", "data.cache_dir", "model.init_from", "run.dir")
"""Settings in which ~ stands for the home folder."""


NAMES_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "batch_size": "train.global_batch_size",
    "epochs": "train.num_epochs",
    "max_epochs": "train.num_epochs",
    "dropout": "model.args.dropout",
    "drop": "model.args.dropout",
    "pretrained": "model.init_from",
    "weights": "model.init_from",
    "patience": "train.early_stopping",
    "amp": "train.precision",
    "optimizer": "optim.name",
    "scheduler": "optim.schedule",
    "num_workers": "data.workers",
}
"""What other tools call a setting, and this one has another word for."""


@dataclass(frozen=True)
class Given:
    """A value as somebody gave it. Mappings and lists hold Given values; `text` is a scalar as it was typed."""

    value: Any
    where: str
    text: str = ""


# The public functions ------------------------------------------------------------------------------


def load_config(path: str | Path | None, overrides: Sequence[str] = (), unless_set: Sequence[str] = ()) -> Config:
    """The config of a new run: a YAML file (or the defaults), then the overrides, such as "optim.lr=1e-3".

    `unless_set` holds overrides that apply only to what neither the file nor an override has set. The batch
    sizes must fit the number of processes, WORLD_SIZE. Raises UsageError.
    """
    root = _read_file(Path(path)) if path is not None else Given({}, "the defaults")
    _override(root, overrides)
    for keys, given in map(_read_override, unless_set):
        if _find(root, keys) is None:
            _put(root, keys, given)
    return _build(root, _world_size())


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config that a run has saved, whatever the number of processes now. Raises UsageError."""
    root = _read_file(Path(path))
    _override(root, overrides)
    return _build(root, world_size=1)


def from_dict(data: Mapping[str, Any], source: str = "config") -> Config:
    """The config of a run that was saved, such as by `to_dict`. `source` names it in errors. Raises UsageError."""
    return _build(_given_from(data, source), world_size=1)


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as plain dicts and lists, which share nothing with the config."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """All settings, a block for each section, which `load_config` reads back as they were."""
    sections = ({name: _blocks(section)} for name, section in _fields_of(config))
    dump = functools.partial(
        yaml.dump, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return "\n".join(dump(_Block(section)) for section in sections)


def differences(old: Config, new: Config, everything: bool = False) -> list[str]:
    """Lines such as "optim.lr: 0.001 -> 0.002", for settings that change the run, or for all."""
    return [f"{path}: {_show(before)} -> {_show(after)}" for path, before, after in _changes(old, new, everything)]


# What was written ----------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: 1e-3 is a number; yes, on, 12:30 and 2024-01-01 are not what YAML 1.1 makes of them."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or `_Loader` would not read back as a string."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_NUMBER_STARTS = list("-+.0123456789")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), [*"~nN", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), [*"tTfF"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+(_[0-9]+)*$"), _NUMBER_STARTS)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _NUMBER_STARTS)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _NUMBER_STARTS)

_SCALARS = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "tag:yaml.org,2002:str": str,
}


def _read_file(path: Path) -> Given:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: a config is UTF-8 text, but {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot read the config ({error.strerror}){_files_beside(path)}") from error
    root = _parse(text, str(path), lines=True)
    if root.value is None:
        return Given({}, root.where)
    if not isinstance(root.value, dict):
        raise UsageError(f"{root.where}: a config is a mapping with sections such as 'optim:', not {_show_given(root)}")
    return root


def _files_beside(path: Path) -> str:
    names = {file.name: str(file) for pattern in ("*.yaml", "*.yml") for file in path.parent.glob(pattern)}
    near = difflib.get_close_matches(path.name, names, n=2)
    return f": did you mean {either(names[name] for name in near)}?" if near else ""


def _parse(text: str, source: str, lines: bool) -> Given:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if lines and mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UsageError(f"{source}{line}: not valid YAML: {problem} (quotes around a value may help)") from error
    finally:
        if loader is not None:
            loader.dispose()
    return Given(None, source) if node is None else _given_node(node, source, lines)


def _given_node(node: yaml.Node, source: str, lines: bool) -> Given:
    where = f"{source}:{node.start_mark.line + 1}" if lines else source
    if isinstance(node, yaml.MappingNode):
        return Given(_given_mapping(node, source, lines), where)
    if isinstance(node, yaml.SequenceNode):
        return Given([_given_node(item, source, lines) for item in node.value], where)
    if node.tag not in _SCALARS:
        raise UsageError(f"{where}: the YAML tag {node.tag} is not known here: write the plain value")
    try:
        return Given(_SCALARS[node.tag](node.value), where, node.value)
    except ValueError as error:  # such as !!int abc
        raise UsageError(f"{where}: {error}") from error


def _given_mapping(node: yaml.MappingNode, source: str, lines: bool) -> dict[str, Given]:
    mapping: dict[str, Given] = {}
    for key_node, value_node in node.value:
        where = f"{source}:{key_node.start_mark.line + 1}" if lines else source
        if not isinstance(key_node, yaml.ScalarNode):
            raise UsageError(f"{where}: the name of a setting must be a word, not a list or a mapping")
        if key_node.value in mapping:
            first = f", first at {mapping[key_node.value].where}" if lines else ""
            raise UsageError(f"{where}: {key_node.value!r} is given twice{first}: remove one of them")
        value = _given_node(value_node, source, lines)
        mapping[key_node.value] = dataclasses.replace(value, where=where)
    return mapping


def _given_from(data: Any, source: str) -> Given:
    if isinstance(data, Mapping):
        return Given({str(key): _given_from(value, source) for key, value in data.items()}, source)
    if isinstance(data, list | tuple):
        return Given([_given_from(item, source) for item in data], source)
    return Given(data, source, str(data))


def _read_override(override: str) -> tuple[list[str], Given]:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"{override}: a setting is written key=value, such as optim.lr=0.001")
    return keys, _parse(text, override, lines=False)


# Overrides -----------------------------------------------------------------------------------------

_LENGTHS = (["train", "num_steps"], ["train", "num_epochs"])


def _override(root: Given, overrides: Sequence[str]) -> None:
    changes = [_read_override(override) for override in overrides]
    _drop_other_length(root, changes)
    for keys, given in changes:
        _put(root, keys, given)


def _drop_other_length(root: Given, changes: list[tuple[list[str], Given]]) -> None:
    """num_steps on the command line replaces num_epochs of the file, and the other way round."""
    changed = [keys for keys, given in changes if keys in _LENGTHS and given.value is not None]
    train = _find(root, ["train"])
    if train is not None and isinstance(train.value, dict):
        for keys, other in (_LENGTHS, _LENGTHS[::-1]):
            if keys in changed and other not in changed:
                train.value.pop(other[1], None)


def _put(root: Given, keys: list[str], given: Given) -> None:
    """Set what `keys` lead to, in place. Mappings on the way are made where there are none."""
    mapping = root.value
    for key in keys[:-1]:
        if key not in mapping or not isinstance(mapping[key].value, dict):
            mapping[key] = Given({}, given.where)
        mapping = mapping[key].value
    if keys == ["augment"] and _is_off(given):
        given = Given(_only_normalize(mapping.get("augment")), given.where)
    mapping[keys[-1]] = given


def _find(root: Given, keys: list[str]) -> Given | None:
    given = root
    for key in keys:
        if not isinstance(given.value, dict) or key not in given.value:
            return None
        given = given.value[key]
    return given


def _is_off(given: Given) -> bool:
    return given.value is None or given.text == "none"


def _only_normalize(augment: Given | None) -> dict[str, Given]:
    """No augmentation is no reason to feed the model other pixel values."""
    settings = augment.value if augment is not None and isinstance(augment.value, dict) else {}
    return {key: given for key, given in settings.items() if key == "normalize"}


# From what was written to settings -----------------------------------------------------------------


def _build(root: Given, world_size: int) -> Config:
    _choose_length(root)
    config = _section(Config, root, "")
    for path in FOLDER_SETTINGS:
        section, name = path.split(".")
        folder = getattr(getattr(config, section), name)
        if folder is not None:
            setattr(getattr(config, section), name, os.path.expanduser(folder))
    for path, problem in contradictions(config, world_size):
        place = _find(root, path.split("."))
        raise UsageError(f"{place.where}: {problem}" if place else problem)
    return config


def _world_size() -> int:
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"the environment variable WORLD_SIZE must be a number of processes, but is {text!r}")
    return int(text)


def _choose_length(root: Given) -> None:
    """num_steps takes the place of the default num_epochs."""
    train = _find(root, ["train"])
    num_steps = _find(root, ["train", "num_steps"])
    if train is not None and num_steps is not None and num_steps.value is not None:
        train.value.setdefault("num_epochs", Given(None, num_steps.where))


def _section(kind: type, given: Given, path: str) -> Any:
    """An instance of a dataclass of config.py. A section that is missing or empty keeps its defaults."""
    if given.value is None or (kind is AugmentConfig and _is_off(given)):
        given = Given({}, given.where)
    if not isinstance(given.value, dict):
        hint = ", or 'none' to turn it off" if kind is AugmentConfig else ""
        raise UsageError(
            f"{given.where}: {path} is a section with the settings {', '.join(hints_of(kind))}{hint}, "
            f"but {_show_given(given)} was given"
        )
    return kind(**{key: _convert(*arguments) for key, arguments in _settings(kind, given, path)})


def _settings(kind: type, given: Given, path: str) -> Iterator[tuple[str, tuple[Given, Any, Mapping, str]]]:
    """What `_convert` needs for each setting that was given, and for each section, given or not."""
    hints = hints_of(kind)
    for key, value in given.value.items():
        if key not in hints:
            raise UsageError(f"{value.where}: unknown setting {_join(path, key)}: {_suggest(key, path, kind)}")
    for field in dataclasses.fields(kind):
        if field.name in given.value or dataclasses.is_dataclass(hints[field.name]):
            value = given.value.get(field.name, Given({}, given.where))
            yield field.name, (value, hints[field.name], field.metadata, _join(path, field.name))


def _convert(given: Given, hint: Any, limits: Mapping, path: str) -> Any:
    """The value of a setting, checked against its type hint and range."""
    inner, optional = split_optional(hint)
    if given.value is None and optional:
        return None
    inner = _alternative(given, inner)
    if is_section(inner):
        return _section(inner, given, path)
    if get_origin(inner) is list:
        return _list(given, inner, limits, path)
    if get_origin(inner) is dict:
        return _dict(given, inner, limits, path)
    return _scalar(given, hint, limits, path)


def _alternative(given: Given, hint: Any) -> Any:
    """Which part of a hint such as `bool | Literal["x"]` is meant, by how the value is written."""
    kinds = {part: {dict: dict, Literal: str}.get(get_origin(part), part) for part in alternatives(hint)}
    if len(kinds) == 1:
        return hint
    return next((part for part, kind in kinds.items() if isinstance(given.value, kind)), next(iter(kinds)))


def _list(given: Given, hint: Any, limits: Mapping, path: str) -> list[Any]:
    if not isinstance(given.value, list):
        raise _mismatch(given, hint, limits, path)
    (item_hint,) = get_args(hint)
    return [_convert(item, item_hint, limits, f"{path}[{index}]") for index, item in enumerate(given.value)]


def _dict(given: Given, hint: Any, limits: Mapping, path: str) -> dict[str, Any]:
    if given.value is not None and not isinstance(given.value, dict):
        raise _mismatch(given, dict, limits, path)
    _, item_hint = get_args(hint)
    if item_hint is Any:
        return _plain(given) or {}
    return {key: _convert(item, item_hint, limits, f"{path}.{key}") for key, item in (given.value or {}).items()}


def _plain(given: Given) -> Any:
    if isinstance(given.value, dict):
        return {key: _plain(value) for key, value in given.value.items()}
    if isinstance(given.value, list):
        return [_plain(item) for item in given.value]
    return given.value


def _scalar(given: Given, hint: Any, limits: Mapping, path: str) -> Any:
    try:
        value = _read_scalar(given, _alternative(given, split_optional(hint)[0]))
        _check_limits(value, limits)
        return value
    except ValueError as error:
        raise _mismatch(given, hint, limits, path) from error


def _read_scalar(given: Given, hint: Any) -> Any:
    """The value as bool, int, float, str or one of the choices. Raises ValueError where it is none."""
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
    """1000 and 1e3 are whole numbers; 1000.0 looks like a mistake."""
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


# Messages ------------------------------------------------------------------------------------------


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


@functools.cache
def _all_paths(kind: type = Config, path: str = "") -> tuple[str, ...]:
    """The dotted path of every section and setting."""
    paths = []
    for name, hint in hints_of(kind).items():
        paths.append(_join(path, name))
        if is_section(hint):
            paths.extend(_all_paths(hint, _join(path, name)))
    return tuple(paths)


def _suggest(key: str, path: str, kind: type) -> str:
    """Where an unknown key may belong: in another section, or under a name that is nearly the same."""
    known = list(hints_of(kind))
    same = [] if "[" in path else _called(key)
    candidates = same or difflib.get_close_matches(key, known, n=2) or settings_like(key)
    if candidates:
        return f"did you mean {either(map(repr, candidates))}?"
    return f"{path or 'a config'} has {', '.join(known)}"


def settings_like(path: str) -> list[str]:
    """The dotted paths that somebody may mean who writes "lr", "train.lr", "epochs" or "learning_rate"."""
    if path in _all_paths():
        return [path]
    key = path.rpartition(".")[2]
    names = {known.rpartition(".")[2] for known in _all_paths()}
    return _called(key) or _ending_in(difflib.get_close_matches(key, names, n=3, cutoff=0.7))


def _called(key: str) -> list[str]:
    """The settings of that name, here or elsewhere."""
    return _ending_in([key]) or [path for name, path in NAMES_ELSEWHERE.items() if name == key]


def _ending_in(names: Sequence[str]) -> list[str]:
    return [path for path in _all_paths() if path.rpartition(".")[2] in names]


def _mismatch(given: Given, hint: Any, limits: Mapping, path: str) -> UsageError:
    literals = [part for part in alternatives(hint) if get_origin(part) is Literal]
    expected, choices = _expected(hint, limits), [choice for part in literals for choice in get_args(part)]
    near = difflib.get_close_matches(given.text, choices, n=1)
    meant = f", did you mean {near[0]!r}?" if near else ""
    doc = f" ({limits['doc']})" if "doc" in limits else ""
    return UsageError(f"{given.where}: {path} must be {expected}, but {_show_given(given)} was given{meant}{doc}")


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
    parts = [f"{word} {limits[name]}" for name, word in words.items() if name in limits]
    return f" {' and '.join(parts)}" if parts else ""


def _show_given(given: Given) -> str:
    if isinstance(given.value, str):
        return repr(given.value)
    return given.text or _show(_plain(given))


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# Comparing and writing -----------------------------------------------------------------------------


def _changes(old: Any, new: Any, everything: bool, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings of both configs that may not differ when a run goes on, or all that differ, with both values."""
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
            yield from _changes(before, after, everything, _join(path, field.name))
        elif (everything or field.metadata["changes_run"]) and not _same(before, after, field.metadata):
            yield _join(path, field.name), _as_plain(before), _as_plain(after)


def _same(before: Any, after: Any, metadata: Mapping) -> bool:
    if metadata["duration"]:
        return _durations(before) == _durations(after)  # "5" and "5 steps"
    return before == after


def _durations(written: str | list[str]) -> list[Duration]:
    return [parse_duration(one) for one in ([written] if isinstance(written, str) else written)]


def _as_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


class _Block(dict):
    """A mapping that is written over several lines."""


_Dumper.add_representer(
    _Block, lambda dumper, block: dumper.represent_mapping("tag:yaml.org,2002:map", block, flow_style=False)
)


def _fields_of(config: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))


def _blocks(value: Any) -> Any:
    """Sections as blocks, and everything in them, such as lists, on one line."""
    if not dataclasses.is_dataclass(value):
        return _as_plain(value)
    return _Block({name: _blocks(item) for name, item in _fields_of(value)})
