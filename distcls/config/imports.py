"""Names in a config that stand for the user's own code: `my_pkg.module:make`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from typing import Any

from distcls.errors import UsageError


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
    """The object that `package.module:attribute` names. Raises UsageError where there is none."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise UsageError(f"{setting}={name}: write package.module:function.")
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
    if not hasattr(module, attribute):
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        raise UsageError(f"{setting}={name}: {module_name} has no {attribute!r}.{nearest(attribute, public)}")
    return getattr(module, attribute)


def _shown(args: tuple, kwargs: dict) -> str:
    words = [repr(argument)[:40] for argument in args] + [f"{key}={value!r}"[:40] for key, value in kwargs.items()]
    return f"({', '.join(words)})"


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean …?" with the known word that is most like this one, or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
