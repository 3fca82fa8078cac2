"""Imports go one way, so that any file can be read, tested and replaced with little else in mind.

Everything is read from the syntax tree: nothing is imported, and imports inside functions count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "distcls"

SCHEMA = {"config", "errors"}
FOUNDATION = {
    "batches",
    "config_checks",
    "config_schema",
    "durations",
    "imports",
    "randomness",
    "signals",
    "status",
    "text_file",
}
SETTINGS = {"config_differences", "config_loader", "config_messages", "config_yaml"}
PARTS = {"analysis", "data", "loss", "metrics", "models", "optim"}

MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in SCHEMA},
    **{name: SCHEMA | FOUNDATION for name in FOUNDATION},
    **{name: SCHEMA | FOUNDATION | {name} for name in PARTS},
    **{name: SCHEMA | FOUNDATION | SETTINGS for name in SETTINGS},
    "gradients": SCHEMA | FOUNDATION,
}
"""What a file or folder of the package may import of it. Files that are not named compose the others."""

LIGHT = {
    *("__init__", "__main__", "arguments", "cli", "config", "config_checks", "config_command", "config_loader"),
    *("check", "config_schema", "data/__init__", "durations", "errors", "evaluate", "predict", "signals", "slurm"),
    *("submit", "train"),
}
"""Files that help, mistakes in a config and decoding processes wait for."""

HEAVY = {"accelerate", "matplotlib", "sklearn", "tensorboard", "torch", "torchmetrics", "torchvision"}
"""Packages that take a second or more to import."""

VAGUE_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}


@dataclass(frozen=True)
class Import:
    """One imported module. `at_top` where importing the file imports it too."""

    module: str
    line: int
    at_top: bool


# What a file imports -------------------------------------------------------------------------------


def imports_of(source: str, known: set[str]) -> list[Import]:
    """All imports of a file. `from distcls import x` counts as distcls.x where `known` has such a module."""
    tree = ast.parse(source)
    at_top = set(map(id, _run_on_import(tree)))
    return [
        Import(module, node.lineno, id(node) in at_top)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in _modules(node, known)
    ]


def _modules(node: ast.Import | ast.ImportFrom, known: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level or node.module is None:
        raise ValueError(f"line {node.lineno}: relative imports hide who imports whom: write `from distcls.x import y`")
    submodules = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in known else node.module for name in submodules]


def _run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when the file is imported: not those of functions, nor for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from _run_on_import(child)


# The rules -----------------------------------------------------------------------------------------


def forbidden_imports(file: str, imports: list[Import]) -> list[str]:
    """Imports of the package that a file such as "data/folder" may not make."""
    part = file.split("/")[0]
    inside = [(one, one.module.split(".")[1:2]) for one in imports if one.module.split(".")[0] == "distcls"]
    return [
        f"distcls/{file}.py:{one.line} imports {one.module}; {part} may import {sorted(MAY_IMPORT[part])}"
        for one, target in inside
        if part in MAY_IMPORT and target and target[0] not in MAY_IMPORT[part]
    ]


def heavy_imports(file: str, imports: list[Import]) -> list[str]:
    """Slow packages that a file imports at its top."""
    return [
        f"distcls/{file}.py:{one.line} imports {one.module} at its top; import it in the function that needs it"
        for one in imports
        if one.at_top and one.module.split(".")[0] in HEAVY
    ]


def reached(start: str, imported: dict[str, set[str]]) -> set[str]:
    """The modules that are imported with one, itself and the packages they lie in included."""
    found, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += [module.rpartition(".")[0] or module, *imported.get(module, ())]
    return found


def import_cycle(imported: dict[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, the last of them the first; empty where there is no such circle."""
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        found = next(filter(None, (follow(n, [*path, module]) for n in sorted(imported.get(module, ())))), [])
        done.add(module)
        return found

    return next(filter(None, (follow(module, []) for module in imported)), [])


# The package ---------------------------------------------------------------------------------------

SOURCES = {str(path.relative_to(PACKAGE).with_suffix("")): path.read_text() for path in PACKAGE.rglob("*.py")}


def _module(file: str) -> str:
    return ".".join(["distcls", *file.removesuffix("__init__").strip("/").split("/")]).rstrip(".")


MODULES = {_module(file) for file in SOURCES}
IMPORTS = {file: imports_of(source, MODULES) for file, source in SOURCES.items()}
GRAPH = {_module(file): {one.module for one in imports if one.at_top} & MODULES for file, imports in IMPORTS.items()}
"""The modules that importing a module imports."""


def test_the_rules_name_what_exists() -> None:
    tops = {file.split("/")[0] for file in SOURCES}
    assert set(MAY_IMPORT) <= tops
    assert set(SOURCES) >= LIGHT


@pytest.mark.parametrize("file", sorted(SOURCES))
def test_imports_go_one_way(file: str) -> None:
    assert forbidden_imports(file, IMPORTS[file]) == []


@pytest.mark.parametrize("file", sorted(LIGHT))
def test_light_files_import_nothing_slow(file: str) -> None:
    files = {_module(file): file for file in SOURCES}
    slow = [
        line
        for module in reached(_module(file), GRAPH)
        for line in heavy_imports(files[module], IMPORTS[files[module]])
    ]
    assert slow == []


def test_no_circle_of_imports() -> None:
    assert import_cycle(GRAPH) == []


def test_only_run_builds_an_accelerator() -> None:
    calls = {
        file
        for file, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Accelerator"
    }
    assert calls == {"run"}


def test_names_say_what_is_inside() -> None:
    names = {part for file in SOURCES for part in file.split("/")}
    assert names & VAGUE_NAMES == set()


def test_every_file_says_why_it_exists() -> None:
    silent = [file for file, source in SOURCES.items() if not ast.get_docstring(ast.parse(source))]
    assert silent == []


# The rules themselves ------------------------------------------------------------------------------

MADE_UP = """
import torch.nn
from distcls.cluster import signals
from distcls import __version__
from distcls.models.cnn import cnn2
class A:
    import matplotlib
def f():
    import torchvision
    from distcls.training.run import Run
if TYPE_CHECKING:
    from torch import Tensor
try:
    import sklearn
except ImportError:
    pass
"""


def test_imports_are_found_wherever_they_stand() -> None:
    found = {(one.module, one.at_top) for one in imports_of(MADE_UP, {"distcls.cluster.signals"})}
    assert found == {
        *{("torch.nn", True), ("distcls.cluster.signals", True), ("distcls", True), ("distcls.models.cnn", True)},
        *{
            ("matplotlib", True),
            ("torchvision", False),
            ("distcls.training.run", False),
            ("torch", False),
            ("sklearn", True),
        },
    }
    with pytest.raises(ValueError, match="relative imports"):
        imports_of("from . import config", set())


def test_what_is_not_allowed_is_found() -> None:
    imports = imports_of(MADE_UP, {"distcls.cluster.signals"})
    lines = {file: [line.split(";")[0] for line in forbidden_imports(file, imports)] for file in ("data/x", "models/x")}
    assert lines["data/x"] == [
        "distcls/data/x.py:4 imports distcls.models.cnn",
        "distcls/data/x.py:9 imports distcls.training.run",
    ]
    assert lines["models/x"] == ["distcls/models/x.py:9 imports distcls.training.run"]
    assert len(forbidden_imports("config", imports)) == 3
    assert forbidden_imports("train", imports) == []
    assert [line.split()[2] for line in heavy_imports("x", imports)] == ["torch.nn", "matplotlib", "sklearn"]


def test_what_an_import_brings_along_is_found() -> None:
    graph = {"a.b": {"c.d"}, "c": {"e"}, "e": {"a.b"}, "f": {"g"}}
    assert reached("a.b", graph) == {"a", "a.b", "c", "c.d", "e"}


def test_a_circle_is_found() -> None:
    assert import_cycle({"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]
    assert import_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
