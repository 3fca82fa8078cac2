"""Opens a run folder safely: checks that it is one, and whether code that its config names may be imported.

`model.name: my_models:make` is code, and people share run folders. So training signs the config that it writes with a
key that only this user has, and a config without that signature imports nothing unless the user says --trust.
docs/safety.md says what this protects against, and what it does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distcls.config.imports import importing_only
from distcls.config.loading import read_config
from distcls.config.settings import Config
from distcls.config.wording import nearest
from distcls.errors import MissingInputError, UsageError

NEEDED = ("config.yaml", "classes.json", "preprocessing.json")
"""Files of a run folder, and of its model/, that are needed to use the weights."""

SIGNATURE = "config.signature"
"""File next to config.yaml: its HMAC-SHA256, in hex, with the key of the user who trained."""

KEY_SIZE = 32
"""Bytes."""

CODE = re.compile(r"[\w.]+:\w+")
"""How a user's code is named in a config."""


def check_run_folder(run_dir: Path, needed: Sequence[str] = NEEDED) -> None:
    """Raise MissingInputError if this is not a run folder, before anything slow is imported."""
    if not run_dir.is_dir():
        others = sorted(path.parent.name for path in run_dir.parent.glob("*/config.yaml"))
        meant = nearest(run_dir.name, others)
        there = f" {run_dir.parent} contains {', '.join(others[:10])}." if others and not meant else ""
        raise MissingInputError(f"{run_dir}: no such run folder.{meant}{there}")
    for name in needed:
        if not (run_dir / name).exists():
            raise MissingInputError(
                f"{run_dir} is not a run folder: it has no {name}. Give a folder such as runs/digits."
            )


@contextmanager
def opened_run(
    run_dir: Path, parts: Sequence[str], overrides: Sequence[str] = (), trust: bool = False
) -> Iterator[Config]:
    """Yield the config of a run, with overrides; inside, code that it names is imported only if that is allowed.

    It is allowed if this user trained the run, if `trust` is set, and for names in the overrides, which the user typed.
    parts: the sections whose names will be needed, such as "model". Raises MissingInputError if this is not a run
    folder, and UsageError, before importing anything, if a part is code that may not be imported.
    """
    check_run_folder(run_dir)
    config = read_config(run_dir / "config.yaml", overrides)
    if trust or is_own(run_dir):
        yield config
        return
    typed = {override.partition("=")[2].strip("\"'") for override in overrides}
    otherwise = (
        f"{run_dir} names code to import, but you did not train it here, or its config.yaml has changed since. So "
        "nothing was imported. If you trust whoever made it, and the code with this name on this machine, add --trust"
    )
    for part in parts:
        name = getattr(config, part).name
        if ":" in name and name not in typed:
            raise UsageError(f"{part}.name={name}: {otherwise}")
    with importing_only(typed, otherwise):
        yield config


def sign_config(run_dir: Path) -> None:
    """Sign the config of a run that this user trains, if it names code; does nothing if no key can be stored."""
    config = (run_dir / "config.yaml").read_bytes()
    if CODE.search(config.decode("utf-8", "replace")):
        with contextlib.suppress(OSError):
            (run_dir / SIGNATURE).write_text(_sign(config, _key(make=True)) + "\n")


def is_own(run_dir: Path) -> bool:
    """True if the config in this folder is, byte for byte, one that this user trained with."""
    try:
        config = (run_dir / "config.yaml").read_bytes()
        expected = _sign(config, _key(make=False))
    except OSError:
        return False
    for folder in (run_dir, run_dir.resolve().parent):  # model/ of a run has the config of the run
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if hmac.compare_digest((folder / SIGNATURE).read_text(encoding="ascii").strip(), expected):
                return True
    return False


def _sign(config: bytes, key: bytes) -> str:
    return hmac.new(key, config, hashlib.sha256).hexdigest()


def _key(make: bool) -> bytes:
    """Return this user's key, which never leaves the account on this machine. Raises OSError if there is none."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = Path(home) / "distcls" / "key"
    if make and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another run is starting, too
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_SIZE))
    key = path.read_bytes()
    if len(key) != KEY_SIZE:
        raise OSError(f"{path} is not a key of {KEY_SIZE} bytes")
    return key
