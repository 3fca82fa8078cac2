"""What tests of sweeps share."""

from __future__ import annotations

from collections.abc import Sequence

from distcls.commands.arguments import parse_train_arguments
from distcls.config.settings import Config


def read(words: Sequence[str]) -> Config:
    """The config of these arguments of `distcls train`."""
    return parse_train_arguments(words)[0]
