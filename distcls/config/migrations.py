"""Updates a config.yaml from an earlier version before it is checked.

Missing settings take their defaults, so a new setting needs no migration. A setting that is renamed or changes its
meaning gets a function in MIGRATIONS; tests/end_to_end/test_old_runs.py reads an old run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distcls.config.contradictions import BELONGS
from distcls.config.yaml_text import Given


def migrate(root: Given) -> None:
    """Bring the config of a run folder up to date, in place."""
    for migration in MIGRATIONS:
        migration(root)


def forget_what_did_nothing(root: Given) -> None:
    """Remove settings without effect, such as optim.momentum for adamw, which 0.1.0 ignored and later ones refuse."""
    for rule in BELONGS:
        section, to = _section(root, rule.setting), _section(root, rule.to)
        setting, other = rule.setting.split(".")[1], rule.to.split(".")[1]
        values = [to[other].plain()] if other in to else []
        if values and not any(map(rule.applies, [*values, *_in_groups(to, other)])):
            section.pop(setting, None)
    if _section(root, "augment.random_resized_crop").get("random_resized_crop", Given(None, "")).value is None:
        _section(root, "data.decode_size").pop("decode_size", None)


def _in_groups(section: dict[str, Any], setting: str) -> list[Any]:
    """Return the values that a setting has in groups of parameters: a value that a group uses had an effect."""
    groups = section["groups"].value if "groups" in section else None
    given = [group.value for group in groups or [] if isinstance(group.value, dict)]
    return [group[setting].plain() for group in given if setting in group]


def _section(root: Given, setting: str) -> dict[str, Any]:
    """Return the section of a setting; empty if there is none."""
    section = root.value.get(setting.split(".")[0])
    return section.value if section is not None and isinstance(section.value, dict) else {}


MIGRATIONS: tuple[Callable[[Given], None], ...] = (forget_what_did_nothing,)
"""In the order of the versions that made them necessary."""
