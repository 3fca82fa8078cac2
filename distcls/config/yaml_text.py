"""Reads and writes configs as YAML. Each value read remembers its origin: `configs/x.yaml:12`, or an override."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer

from distcls.config.settings import Config
from distcls.config.wording import either
from distcls.errors import UsageError


@dataclass(frozen=True)
class Given:
    """A value as the user gave it. Mappings and lists hold Given values; `text` is a scalar as typed."""

    value: Any
    where: str
    text: str = ""

    def at(self, *keys: str) -> Given | None:
        """Return the value that these keys lead to, or None."""
        given = self
        for key in keys:
            if not isinstance(given.value, dict) or key not in given.value:
                return None
            given = given.value[key]
        return given

    def plain(self) -> Any:
        """Return the bare value, with bare values inside it."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def shown(self) -> str:
        """Return the value as messages quote it."""
        text = repr(self.value) if isinstance(self.value, str) else self.text or shown(self.plain())
        return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]} …"


def shown(value: Any) -> str:
    """Return a plain value as messages quote it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


LARGEST_FILE = 1_000_000
"""Bytes; reading that many takes seconds."""

DEEPEST, MOST_VALUES = 30, 100_000
"""Limits beyond which a config is a mistake or an attack."""

AS_TYPED = ("data.groups",)
"""Settings whose overrides are not YAML, unless they are in quotes or null: in a regular expression, [, # and : mean
something else."""

LONGEST_QUOTE = 200
"""The most characters of a value that messages quote."""


_Events: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser: libyaml, if it is there, which takes a tenth of the time. `distcls compare` reads many configs."""


class _Loader(Composer, _Events):
    """Reads scalars as in YAML 1.2: 1e-3 is a number; yes, on, 12:30 and 2024-01-01 are strings (not so in 1.1)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        _Events.__init__(self, text)
        Composer.__init__(self)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node. Raises YAMLError if it is nested too deeply: each level slows down the parser."""
        if self._depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"values are nested more than {DEEPEST} levels deep", problem_mark=mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 or `_Loader` would not read back as strings."""

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


def read_yaml(path: Path) -> Given:
    """Return the mapping in a file, which may be empty. Raises UsageError, which names the line."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UsageError(f"{path}: a config has at most {LARGEST_FILE:,} bytes. Is this the right file?")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: a config must be UTF-8 text, but {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot read the config ({error.strerror}){_files_beside(path)}") from error
    root = _parse(text, str(path), lines=True)
    if root.value is None:
        return Given({}, root.where)
    if not isinstance(root.value, dict):
        raise UsageError(f"{root.where}: a config must have sections such as 'optim:', but is {root.shown()}")
    return root


def _files_beside(path: Path) -> str:
    names = {file.name: str(file) for pattern in ("*.yaml", "*.yml") for file in path.parent.glob(pattern)}
    near = difflib.get_close_matches(path.name, names, n=2)
    return f": did you mean {either(names[name] for name in near)}?" if near else ""


def _parse(text: str, source: str, lines: bool) -> Given:
    if any("\udc80" <= character <= "\udcff" for character in text):  # how Python decodes a byte that is not UTF-8
        raise UsageError(
            f"{source.encode('utf-8', 'replace').decode()}: a config must be UTF-8 text, but this name has other "
            "bytes. Create a link to the file or folder, ln -s OLD NEW, and give the link's name"
        )
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if lines and mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UsageError(f"{source}{line}: not valid YAML: {problem} (quoting a value may help)") from error
    finally:
        if loader is not None:
            loader.dispose()
    return Given(None, source) if node is None else _Reader(source, lines).read(node, 0)


class _Reader:
    """Turns YAML nodes into Given values. Aliases may repeat nodes many times, or contain themselves."""

    def __init__(self, source: str, lines: bool) -> None:
        self.source, self.lines, self.count = source, lines, 0

    def read(self, node: yaml.Node, depth: int) -> Given:
        self.count += 1
        where = self._where(node)
        if depth > DEEPEST or self.count > MOST_VALUES:
            limit = f"more than {DEEPEST} levels" if depth > DEEPEST else f"more than {MOST_VALUES:,} values"
            raise UsageError(f"{where}: the config has {limit}, or an alias that contains itself: write it out plainly")
        if isinstance(node, yaml.MappingNode):
            return Given(self._read_mapping(node, depth), where)
        if isinstance(node, yaml.SequenceNode):
            return Given([self.read(item, depth + 1) for item in node.value], where)
        return _given_scalar(node, where)

    def _read_mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Given]:
        mapping: dict[str, Given] = {}
        for key_node, value_node in node.value:
            where = self._where(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise UsageError(f"{where}: the name of a setting must be a word, not a list or a mapping")
            if key_node.value in mapping:
                first = f", first at {mapping[key_node.value].where}" if self.lines else ""
                raise UsageError(f"{where}: {key_node.value!r} is given twice{first}: remove one of them")
            value = self.read(value_node, depth + 1)
            mapping[key_node.value] = dataclasses.replace(value, where=where)
        return mapping

    def _where(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}" if self.lines else self.source


def _given_scalar(node: yaml.Node, where: str) -> Given:
    if node.tag not in _SCALARS:
        raise UsageError(f"{where}: the YAML tag {node.tag} is not supported: write the plain value")
    try:
        return Given(_SCALARS[node.tag](node.value), where, node.value)
    except ValueError as error:  # such as !!int abc
        raise UsageError(f"{where}: {error}") from error


def read_override(override: str) -> tuple[list[str], Given]:
    """Return the keys and the value in an override such as `optim.lr=1e-3`. Raises UsageError."""
    path, equals, text = override.partition("=")
    path = path.strip()
    keys = path.split(".")
    if not equals or not all(keys):
        raise UsageError(f"{override}: write settings as key=value, such as optim.lr=0.001")
    if not text.strip():
        raise UsageError(
            f"{path}= has no value: a shell variable may be unset. Write {path}=VALUE, or {path}=null to unset it"
        )
    if path in AS_TYPED and text.strip() not in ("null", "~") and not text.startswith(("'", '"')):
        text = json.dumps(text, ensure_ascii=False)
    return keys, _parse(text, override, lines=False)


def quoted(text: str, path: str = "run.dir") -> str:
    """Return a text as the value of an override of this setting: in quotes if it would be read as anything else."""
    try:
        is_plain = read_override(f"{path}={text}")[1].value == text
    except UsageError:
        is_plain = False
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def typed(path: str, text: str) -> str:
    """Return path=text as to be typed in a shell."""
    return f"{path}={shlex.quote(quoted(text, path))}"


def to_yaml(config: Config) -> str:
    """Return all settings as YAML, one block per section, which `load_config` reads back unchanged."""
    sections = ({name: _blocks(section)} for name, section in _fields_of(config))
    return "\n".join(_dump(_Block(section)) for section in sections)


def _dump(value: Any) -> str:
    return yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )


def given_as_yaml(config: Config) -> str:
    """Return only the settings that were given (Config.is_given), as YAML that `load_config` reads back."""
    sections = ({name: _given_blocks(config, name, section)} for name, section in _fields_of(config))
    return "\n".join(_dump(_Block(section)) for section in sections if _NOTHING not in section.values())


_NOTHING = object()
"""Marks a setting or section that was not given."""


def _given_blocks(config: Config, path: str, value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return as_plain(value) if config.is_given(path) else _NOTHING
    items = {name: _given_blocks(config, f"{path}.{name}", item) for name, item in _fields_of(value)}
    given = _Block({name: item for name, item in items.items() if item is not _NOTHING})
    return given or _NOTHING


def as_plain(value: Any) -> Any:
    """Return a setting's value, with dicts in place of dataclasses."""
    if isinstance(value, list):
        return [as_plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


class _Block(dict):
    """A mapping that is written on several lines."""


_Dumper.add_representer(
    _Block, lambda dumper, block: dumper.represent_mapping("tag:yaml.org,2002:map", block, flow_style=False)
)


def _fields_of(config: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))


def _blocks(value: Any) -> Any:
    """Return sections as blocks; everything in them, such as lists, is written on one line."""
    if not dataclasses.is_dataclass(value):
        return as_plain(value)
    return _Block({name: _blocks(item) for name, item in _fields_of(value)})
