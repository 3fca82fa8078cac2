"""A config as YAML, both ways. What is read remembers where it stands: at `configs/x.yaml:12`, or in an override."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distcls.config.settings import Config
from distcls.config.wording import either
from distcls.errors import UsageError


@dataclass(frozen=True)
class Given:
    """A value as somebody gave it. Mappings and lists hold Given values; `text` is a scalar as it was typed."""

    value: Any
    where: str
    text: str = ""

    def plain(self) -> Any:
        """The value alone, down to the last."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def shown(self) -> str:
        """As a message quotes it."""
        text = repr(self.value) if isinstance(self.value, str) else self.text or shown(self.plain())
        return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]} …"


def shown(value: Any) -> str:
    """A plain value as a message quotes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


LARGEST_FILE = 1_000_000
"""Bytes; reading that many takes seconds."""

DEEPEST, MOST_VALUES = 30, 100_000
"""Limits of a config, beyond which it is a mistake or an attack."""

LONGEST_QUOTE = 200
"""Characters of a value that a message quotes."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: 1e-3 is a number; yes, on, 12:30 and 2024-01-01 are not what YAML 1.1 makes of them."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node. Raises YAMLError where it lies too deep: each level makes the next token slower."""
        if self._depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"values lie more than {DEEPEST} levels deep", problem_mark=mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


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


def read_yaml(path: Path) -> Given:
    """The mapping that a file holds; an empty one where it is empty. Raises UsageError, with the line."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UsageError(f"{path}: a config has at most {LARGEST_FILE:,} bytes: is this another file?")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: a config is UTF-8 text, but {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot read the config ({error.strerror}){_files_beside(path)}") from error
    root = _parse(text, str(path), lines=True)
    if root.value is None:
        return Given({}, root.where)
    if not isinstance(root.value, dict):
        raise UsageError(f"{root.where}: a config is a mapping with sections such as 'optim:', not {root.shown()}")
    return root


def _files_beside(path: Path) -> str:
    names = {file.name: str(file) for pattern in ("*.yaml", "*.yml") for file in path.parent.glob(pattern)}
    near = difflib.get_close_matches(path.name, names, n=2)
    return f": did you mean {either(names[name] for name in near)}?" if near else ""


def _parse(text: str, source: str, lines: bool) -> Given:
    if any("\udc80" <= character <= "\udcff" for character in text):  # how Python writes a byte that is not UTF-8
        raise UsageError(
            f"{source.encode('utf-8', 'replace').decode()}: a config is UTF-8 text, and this name has other bytes in "
            "it. Make a link to the file or folder, ln -s OLD NEW, and give the name of the link"
        )
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
    return Given(None, source) if node is None else _Reader(source, lines).read(node, 0)


class _Reader:
    """Makes Given values of YAML nodes, of which an alias may hold the same ones again and again, or itself."""

    def __init__(self, source: str, lines: bool) -> None:
        self.source, self.lines, self.count = source, lines, 0

    def read(self, node: yaml.Node, depth: int) -> Given:
        self.count += 1
        where = self._where(node)
        if depth > DEEPEST or self.count > MOST_VALUES:
            limit = f"more than {DEEPEST} levels deep" if depth > DEEPEST else f"of more than {MOST_VALUES:,} values"
            raise UsageError(f"{where}: a config {limit}, or that refers to itself, cannot be read: write it plainly")
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
        raise UsageError(f"{where}: the YAML tag {node.tag} is not known here: write the plain value")
    try:
        return Given(_SCALARS[node.tag](node.value), where, node.value)
    except ValueError as error:  # such as !!int abc
        raise UsageError(f"{where}: {error}") from error


def read_override(override: str) -> tuple[list[str], Given]:
    """`optim.lr=1e-3` as the keys that lead to the setting, and its value. Raises UsageError."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"{override}: a setting is written key=value, such as optim.lr=0.001")
    return keys, _parse(text, override, lines=False)


def to_yaml(config: Config) -> str:
    """All settings, a block for each section, which `load_config` reads back as they were."""
    sections = ({name: _blocks(section)} for name, section in _fields_of(config))
    dump = functools.partial(
        yaml.dump, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return "\n".join(dump(_Block(section)) for section in sections)


def as_plain(value: Any) -> Any:
    """A setting's value with dicts for the dataclasses in it."""
    if isinstance(value, list):
        return [as_plain(item) for item in value]
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
        return as_plain(value)
    return _Block({name: _blocks(item) for name, item in _fields_of(value)})
