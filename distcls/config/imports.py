"""Names in a config that stand for the user's own code: `my_pkg.module:make`.

This is the only place where a config leads to an import, and so the place where code of a stranger's run folder is
refused (runs/opening.py decides which that is).
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
    """Inside, any other name than these raises UsageError with the message `otherwise`, and imports nothing."""
    token = _allowed.set((names, otherwise))
    try:
        yield
    finally:
        _allowed.reset(token)


def call_by_name(setting: str, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Import `package.module:function` and call it.

    Raises UsageError, naming the setting, where the module or the function is not there, or where the
    arguments do not fit it. The current folder is searched too, as `python -m` does.
    """
    function = import_by_name(setting, name)
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{setting}={name} cannot be called with {_shown(args, kwargs)}: {error}.") from error
    return function(*args, **kwargs)


def import_by_name(setting: str, name: str) -> Any:
    """The object that `package.module:attribute` names. Raises UsageError where there is none.

    Nothing in Python's standard library is a model or a transform: `os:system` is refused before anybody calls it.
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
            raise  # the user's module was found, but imports something that is not there
        raise UsageError(
            f"{setting}={name}: there is no module {error.name!r}. Write package.module:function, "
            f"installed or under the current folder ({os.getcwd()})."
        ) from error
    if _is_standard_library(module):
        raise UsageError(
            f"{setting}={name}: {module_name} belongs to Python itself, and nothing in it fits {setting}. Name a class "
            "or function of your own, or of a package that you have installed."
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
