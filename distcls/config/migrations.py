"""Updates a config.yaml from an earlier version before it is checked.

Missing settings take their defaults, so a new setting needs no migration. A setting that is renamed or changes its
meaning gets a function in MIGRATIONS; tests/end_to_end/test_old_runs.py reads an old run.
"""

from __future__ import annotations

from collections.abc import Callable

from distcls.config.contradictions import BELONGS
from distcls.config.yaml_text import Given


def migrate(root: Given) -> None:
    """Bring the config of a run folder up to date, in place."""
    for migration in MIGRATIONS:
        migration(root)


def forget_what_did_nothing(root: Given) -> None:
    """Remove settings without effect, such as optim.momentum for adamw, which 0.1.0 ignored and later ones refuse."""
    for rule in BELONGS:
        given = root.at(*rule.to.split("."))
        if given is None:
            continue
        groups = _groups(root) if rule.to.startswith("optim.") else []
        setting, to = rule.setting.split(".")[1], rule.to.split(".")[1]
        of_groups = [given if own is None or own.value is None else own for own in (group.at(to) for group in groups)]
        for group, own in zip(groups, of_groups, strict=True):
            if not rule.applies(own.plain()):
                group.value.pop(setting, None)
        if not any(rule.applies(one.plain()) for one in (given, *of_groups)):
            _forget(root, rule.setting)
    crop = root.at("augment", "random_resized_crop")
    if crop is None or crop.value is None:
        _forget(root, "data.decode_size")


def _groups(root: Given) -> list[Given]:
    """Return the groups of parameters; a setting that only a group uses had an effect."""
    groups = root.at("optim", "groups")
    found = groups.value if groups is not None and isinstance(groups.value, list) else []
    return [group for group in found if isinstance(group.value, dict)]


def _forget(root: Given, setting: str) -> None:
    section, name = setting.split(".")
    given = root.at(section)
    if given is not None and isinstance(given.value, dict):
        given.value.pop(name, None)


MIGRATIONS: tuple[Callable[[Given], None], ...] = (forget_what_did_nothing,)
"""In the order of the versions that made them necessary."""
