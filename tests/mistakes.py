"""What a user reads when a config is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcls.config.loading import load_config
from distcls.errors import UsageError


def message(*overrides: str, path: Path | None = None) -> str:
    """What a user reads when this fails."""
    with pytest.raises(UsageError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)
