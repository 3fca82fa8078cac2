"""Imports go one way, so that any file can be read, tested and replaced with little else in mind.

Everything is read from the syntax tree: nothing is imported, and imports inside functions count too.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "distcls"

LAYERS: list[set[str]] = [
    {"errors"},
    {"config"},
    {"files"},
    {"terminal"},
    {"plan"},
    {"cluster"},
    {"runs"},
    {"data", "models", "optim"},
    {"inference"},
    {"training"},
    {"report", "export"},
    {"serving"},
    {"sweeps", "benchmark", "hub"},
    {"commands"},
    {"api", "cli"},
    {"__main__", "train"},
]
"""Rooms and doors, from the ground up: each imports itself, and what lies in a layer below it."""

MOST_FILES = 15
"""In one room, its __init__ left out. commands/ has a file for each command, however many there are."""

DOORS = {"__init__", "__main__", "api", "cli", "errors", "train"}
"""The files that lie outside all rooms."""

LATE_ROOMS = {"commands", "api", "__init__"}
"""Where imports inside functions are the rule: they parse arguments first, and then import the engine."""

DEFERRED = {
    "timm": "takes seconds, and only its own models need it",
    "huggingface_hub": "only timm's weights need it",
    "torchvision": "takes seconds, and only its own models, transforms and data sets need it",
    "torch.utils.tensorboard": "takes seconds, which the first step does not wait for",
    "distcls.inference.sums": "imports torchmetrics, which takes three times as long as torch",
    "scipy.special": "takes half a second, and only groups of repeated runs need it",
    "onnx": "an extra, and only exported files need it",
    "onnxruntime": "an extra, and only exported files need it",
    "scipy.io": "only the labels of ImageNet's devkit need it",
    "sklearn.datasets": "takes seconds, and the digits are kept after their first use",
    "submitit.helpers": "only tasks of Slurm need it, and signals are not heard while it is imported",
    "distcls.serving.demo": "imports gradio, an extra that takes seconds",
    "pyarrow": "an extra, for Parquet files",
    "pillow_heif": "an extra, and only HEIC files need it",
    "wandb": "optional, and imported only by the process that sends rows to it",
    "mlflow": "optional, and imported only by the process that sends rows to it",
    "trackio": "optional, and imported only by the process that sends rows to it",
    "PIL": "only colors that are not white need it, in a config that has to be checked at once",
}
"""What the engine imports inside functions, and why."""

LIGHT = {"__init__", "__main__", "api", "cli", "train", "errors", "data/decoding/worker"}
"""Files, with all of the commands, that help, mistakes in a config and decoding processes wait for."""

HEAVY = {"accelerate", "matplotlib", "sklearn", "tensorboard", "timm", "torch", "torchmetrics", "torchvision"}
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


def level_of(top: str) -> int:
    """The layer of a room or door."""
    return next(level for level, names in enumerate(LAYERS) if top in names)


def forbidden_imports(file: str, imports: list[Import]) -> list[str]:
    """Imports of the package that a file such as "data/sources/folder" may not make, wherever they stand in it."""
    top = file.split("/")[0]
    lines = []
    for one in imports:
        package, *rest = one.module.split(".")
        if package != "distcls" or not rest or rest[0] == top:
            continue
        if level_of(rest[0]) >= level_of(top):
            lines.append(f"distcls/{file}.py:{one.line} imports {one.module}, which is not below {top}")
    return lines


def late_imports(file: str, imports: list[Import]) -> list[str]:
    """Imports inside functions that DEFERRED does not explain."""
    if file.split("/")[0] in LATE_ROOMS:
        return []
    return [
        f"distcls/{file}.py:{one.line} imports {one.module} inside a function"
        for one in imports
        if not one.at_top and not any(f"{one.module}.".startswith(f"{name}.") for name in DEFERRED)
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
GRAPH = {_module(file): {one.module for one in imports} & MODULES for file, imports in IMPORTS.items()}
"""The modules that a module imports, at its top or later."""
AT_TOP = {_module(file): {one.module for one in imports if one.at_top} & MODULES for file, imports in IMPORTS.items()}
"""The modules that importing a module imports."""
COMMANDS = {file for file in SOURCES if file.startswith("commands/")}


def test_the_layers_name_what_exists() -> None:
    tops = {file.split("/")[0] for file in SOURCES}
    named = [name for layer in LAYERS for name in layer]
    assert sorted(named) == sorted(tops - {"__init__"})
    assert set(SOURCES) >= LIGHT


def test_few_doors_and_no_crowds() -> None:
    assert {file for file in SOURCES if "/" not in file} <= DOORS
    rooms = Counter(file.rpartition("/")[0] for file in SOURCES if "/" in file and not file.endswith("__init__"))
    crowds = {room: files for room, files in rooms.items() if files > MOST_FILES and room != "commands"}
    assert crowds == {}


@pytest.mark.parametrize("file", sorted(SOURCES))
def test_imports_go_down(file: str) -> None:
    assert forbidden_imports(file, IMPORTS[file]) == []
    assert late_imports(file, IMPORTS[file]) == []


def test_nothing_is_imported_for_type_checkers_only() -> None:
    assert [file for file, source in SOURCES.items() if "TYPE_CHECKING" in source] == []


@pytest.mark.parametrize("file", sorted(LIGHT | COMMANDS))
def test_light_files_import_nothing_slow(file: str) -> None:
    files = {_module(file): file for file in SOURCES}
    slow = [
        line
        for module in reached(_module(file), AT_TOP)
        for line in heavy_imports(files[module], IMPORTS[files[module]])
    ]
    assert slow == []


def test_no_circle_of_imports() -> None:
    assert import_cycle(GRAPH) == []


def test_the_door_is_never_imported() -> None:
    """As a module it would take the place of the function `distcls.train`."""
    assert [module for module, imported in GRAPH.items() if "distcls.train" in imported] == []


def test_only_acceleration_builds_an_accelerator() -> None:
    calls = {
        file
        for file, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Accelerator"
    }
    assert calls == {"training/acceleration"}


def test_tests_mirror_the_package() -> None:
    """A test file in a room of tests/ has the name of a file of the package, or of its room."""
    rooms = {room for room in (file.rpartition("/")[0] for file in SOURCES) if room}
    tests = {str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py")}
    strays = [
        name
        for name in tests
        for room, _, file in [name.rpartition("/")]
        if room in rooms and f"{room}/{file.removeprefix('test_').removesuffix('.py')}" not in SOURCES
    ]
    assert sorted(strays) == []


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
from distcls.models.cnn import cnn2
class A:
    import matplotlib
def f():
    import torchvision
    from distcls.runs.folder import RunFolder
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
        *{("torch.nn", True), ("distcls.cluster.signals", True), ("distcls.models.cnn", True)},
        *{("matplotlib", True), ("torchvision", False), ("distcls.runs.folder", False)},
        *{("torch", False), ("sklearn", True)},
    }
    with pytest.raises(ValueError, match="relative imports"):
        imports_of("from . import config", set())


def test_what_is_not_allowed_is_found() -> None:
    imports = imports_of(MADE_UP, {"distcls.cluster.signals"})
    assert forbidden_imports("data/x", imports) == [
        "distcls/data/x.py:4 imports distcls.models.cnn, which is not below data"
    ]
    assert [line.split(":")[1].split()[0] for line in forbidden_imports("cluster/x", imports)] == ["4", "9"]
    assert len(forbidden_imports("config/x", imports)) == 3
    assert forbidden_imports("training/loop", imports) == []
    assert [line.split()[2] for line in heavy_imports("x", imports)] == ["torch.nn", "matplotlib", "sklearn"]
    assert [line.split()[2] for line in late_imports("data/x", imports)] == ["distcls.runs.folder", "torch"]
    assert late_imports("commands/x", imports) == []


def test_what_an_import_brings_along_is_found() -> None:
    graph = {"a.b": {"c.d"}, "c": {"e"}, "e": {"a.b"}, "f": {"g"}}
    assert reached("a.b", graph) == {"a", "a.b", "c", "c.d", "e"}


def test_a_circle_is_found() -> None:
    assert import_cycle({"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]
    assert import_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
