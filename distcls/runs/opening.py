"""A run folder that somebody wants to use: that it is one, and whether code that its config names may be imported.

`model.name: my_models:make` is code, and run folders are handed around. So training signs the config that it writes
with a key that only this user has, and a config without that signature imports nothing unless its user says --trust.
docs/safety.md says what that protects from, and what it does not.
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

from distcls.config.imports import importing_only, nearest
from distcls.config.loading import read_config
from distcls.config.settings import Config
from distcls.errors import MissingInputError, UsageError

NEEDED = ("config.yaml", "classes.json", "preprocessing.json")
"""Files of a run folder, and of its model/, without which the weights cannot be used."""

SIGNATURE = "config.signature"
"""Beside config.yaml: its HMAC-SHA256, in hex, with the key of the user who trained."""

KEY_SIZE = 32
"""Bytes."""

CODE = re.compile(r"[\w.]+:\w+")
"""How the name of somebody's code looks in a config."""


def check_run_folder(run_dir: Path, needed: Sequence[str] = NEEDED) -> None:
    """Raise MissingInputError where this is no run folder: at once, before anything slow is imported."""
    if not run_dir.is_dir():
        others = sorted(path.parent.name for path in run_dir.parent.glob("*/config.yaml"))
        meant = nearest(run_dir.name, others)
        there = f" In {run_dir.parent} there are {', '.join(others[:10])}." if others and not meant else ""
        raise MissingInputError(f"{run_dir}: there is no such run folder.{meant}{there}")
    for name in needed:
        if not (run_dir / name).exists():
            raise MissingInputError(
                f"{run_dir} is not a run folder: it has no {name}. Give a folder such as runs/digits."
            )


@contextmanager
def opened_run(
    run_dir: Path, parts: Sequence[str], overrides: Sequence[str] = (), trust: bool = False
) -> Iterator[Config]:
    """The config of a run, with overrides; inside, code that it names is imported only where it may be.

    That is: where this user has trained the run, where `trust` says so, and names that are in the overrides, since the
    user has typed these. parts: the sections whose names will be needed, such as "model". Raises MissingInputError
    where this is no run folder, UsageError where a part is code that may not be imported: before anything is.
    """
    check_run_folder(run_dir)
    config = read_config(run_dir / "config.yaml", overrides)
    if trust or is_own(run_dir):
        yield config
        return
    typed = {override.partition("=")[2].strip("\"'") for override in overrides}
    otherwise = (
        f"{run_dir} names code to be imported, and it was not trained by you here, or its config.yaml was changed "
        "since. So nothing was imported. If you trust those who made it, and the code that has this name here: --trust"
    )
    for part in parts:
        name = getattr(config, part).name
        if ":" in name and name not in typed:
            raise UsageError(f"{part}.name={name}: {otherwise}")
    with importing_only(typed, otherwise):
        yield config


def sign_config(run_dir: Path) -> None:
    """Sign the config of a run that this user trains, if it names code; not where no key can be kept."""
    config = (run_dir / "config.yaml").read_bytes()
    if CODE.search(config.decode("utf-8", "replace")):
        with contextlib.suppress(OSError):
            (run_dir / SIGNATURE).write_text(_sign(config, _key(make=True)) + "\n")


def is_own(run_dir: Path) -> bool:
    """True if the config in this folder is, byte by byte, one with which this user has trained."""
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
    """This user's key, which never leaves this machine's account. Raises OSError where there is none."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = Path(home) / "distcls" / "key"
    if make and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another run that starts now
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_SIZE))
    key = path.read_bytes()
    if len(key) != KEY_SIZE:
        raise OSError(f"{path} is not a key of {KEY_SIZE} bytes")
    return key
