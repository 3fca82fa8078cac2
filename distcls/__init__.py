"""distcls trains image classifiers; a run is a pure function of its config.

`distcls.train()` trains one, `distcls.load()` uses it (api.py). Importing this package imports nothing else.
"""

import importlib

__version__ = "0.1.0"

API = ("Classifier", "Prediction", "Run", "load", "train")
"""The names that api.py adds to this package."""


def __getattr__(name: str) -> object:
    """The Python API, imported when it is first used: torch takes seconds (__init__.pyi gives the types)."""
    if name in API:
        return getattr(importlib.import_module("distcls.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *API]
