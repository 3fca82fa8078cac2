"""Imports the user's own code, which a config names as `my_pkg.module:make`.

No other place imports what a config names, so this is where code named in somebody else's run folder is refused
(runs/opening.py decides which names those are).
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from distcls.config.wording import nearest
from distcls.errors import UsageError

_allowed: ContextVar[tuple[Collection[str], str] | None] = ContextVar("_allowed", default=None)


@contextmanager
def importing_only(names: Collection[str], otherwise: str) -> Iterator[None]:
    """Allow only these names to be imported in the block; others raise UsageError with the message `otherwise`."""
    token = _allowed.set((names, otherwise))
    try:
        yield
    finally:
        _allowed.reset(token)


def call_by_name(setting: str, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Import `package.module:function` and call it.

    Raises UsageError, naming the setting, if the module or function does not exist or does not take these
    arguments. The current folder is searched too, as with `python -m`.
    """
    function = import_by_name(setting, name)
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{setting}={name} cannot be called with {_shown(args, kwargs)}: {error}.") from error
    return function(*args, **kwargs)


def import_by_name(setting: str, name: str) -> Any:
    """Return the object named `package.module:attribute`. Raises UsageError if it does not exist.

    Python's standard library holds no models or transforms, so `os:system` is refused before anybody calls it.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise UsageError(f"{setting}={name}: write package.module:function.")
    allowed = _allowed.get()
    if allowed is not None and name not in allowed[0]:
        raise UsageError(f"{setting}={name}: {allowed[1]}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module exists but imports something missing
        raise UsageError(
            f"{setting}={name}: there is no module {error.name!r}. Write package.module:function, "
            f"installed or under the current folder ({os.getcwd()})."
        ) from error
    if _is_standard_library(module):
        raise UsageError(
            f"{setting}={name}: {module_name} belongs to Python itself, and nothing in it fits {setting}. Name your "
            "own class or function, or one from a package that you have installed."
        )
    if not hasattr(module, attribute):
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        raise UsageError(f"{setting}={name}: {module_name} has no {attribute!r}.{nearest(attribute, public)}")
    return getattr(module, attribute)


def _is_standard_library(module: ModuleType) -> bool:
    origin = getattr(module.__spec__, "origin", None) or "built-in"
    if origin in ("built-in", "frozen"):
        return module.__name__.partition(".")[0] in sys.stdlib_module_names
    folders = {os.path.realpath(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")}
    origin = os.path.realpath(origin)
    return any(origin.startswith(f"{folder}{os.sep}") for folder in folders) and "-packages" not in origin


def _shown(args: tuple, kwargs: dict) -> str:
    words = [repr(argument)[:40] for argument in args] + [f"{key}={value!r}"[:40] for key, value in kwargs.items()]
    return f"({', '.join(words)})"
