"""Sweeps in the folder of a test, on digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distcls.sweeps.search.plan import Limits, Plan
from distcls.sweeps.search.space import read_space


@pytest.fixture
def make_plan(tmp_path, monkeypatch) -> Callable[..., Plan]:
    """Makes the plan of a sweep of these settings."""
    monkeypatch.chdir(tmp_path)

    def make(*words: str, space: str | None = None, **values: Any) -> Plan:
        file = None
        if space is not None:
            file = Path("space.yaml")
            file.write_text(space, encoding="utf-8")
        found, fixed = read_space(file, words)
        defaults: dict[str, Any] = {
            "folder": Path("sweeps/s"),
            "config_file": None,
            "search": "grid" if found.is_listed() else "random",
            "num_trials": None if found.is_listed() else 8,
            "num_seeds": 1,
            "first_seed": 0,
            "metric": "accuracy",
            "also": (),
            "limits": Limits(),
            "pruner": None,
            "search_seed": 0,
        }
        plan = Plan(space=found, options=tuple(fixed), **{**defaults, **values})
        plan.folder.mkdir(parents=True, exist_ok=True)
        return plan

    return make
