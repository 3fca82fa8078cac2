"""Configs for tests, which cannot be changed once they are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distcls.config.settings import Config


def variant(config: Config | None = None, **settings: Any) -> Config:
    """Return the config (or the defaults) with other settings, by their dotted names with __ for the dot."""
    config = config or Config()
    for name, value in settings.items():
        section, key = name.split("__")
        config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    return config
