"""Parses the arguments of commands, options and settings, and suggests what was meant when one is mistyped."""

from __future__ import annotations

import argparse
import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from distcls.config.loading import load_config, read_config
from distcls.config.messages import settings_like
from distcls.config.settings import KINDS_OF_PATHS, PRESETS, WITHOUT_PATHS, Config
from distcls.errors import DiskError, MissingInputError, UsageError
from distcls.files.atomic import is_device
from distcls.runs.opening import check_run_folder

SETTINGS = "key=value"
"""How help texts show settings of the config."""

TRUST = "import code that the run's config names (my_pkg.module:make), even if you did not train the run here"
"""Help text of --trust, shared by all commands that have it."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError instead of exiting, and accepts no abbreviations."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **arguments})

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_intermixed_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Return the parsed arguments; options and positional ones may come in any order. Raises UsageError."""
        words, unknown = self.parse_known_intermixed_args(list(args), namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            takes_settings = any(action.metavar == SETTINGS for action in self._actions)
            self.error(_unknown_option(unknown[0], options, takes_settings))
        return words


def add_config_file(parser: argparse.ArgumentParser, help: str = "YAML file with settings") -> None:
    """Add the option for a config file, which may be given once."""
    parser.add_argument("-c", "--config", action=_OneFile, type=Path, metavar="FILE", help=help)


class _OneFile(argparse.Action):
    """Takes the file of an option that may be given once: a second one would silently replace the first."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        if before is not None:
            raise UsageError(
                f"-c {before} -c {values}: there can be only one config file. Put all settings into one, or give some "
                "as key=value, such as optim.lr=3e-4"
            )
        setattr(namespace, self.dest, values)


@dataclass(frozen=True)
class TrainOptions:
    """The options of `distcls train` that are not settings. A run without a name is named after `config_path`."""

    dry_run: bool
    print_config: bool
    config_path: Path | None


TRAINING = {
    "train": "Train a model.",
    "crossval": "Train a model data.folds times (default: 5), each time with another fold of the images as val, in run "
    "folders NAME-fold0, NAME-fold1 …; then print mean and standard deviation, and write them to NAME-crossval.json.",
}
"""Descriptions of the commands that take these arguments."""


def parse_train_arguments(
    argv: Sequence[str], command: str = "train", defaults: Sequence[str] = ()
) -> tuple[Config, TrainOptions]:
    """Return the settings and options of `distcls train`, `python -m distcls.train` and `distcls crossval`.

    defaults: the command's own settings, used where neither the file nor the arguments set them. Raises UsageError.
    """
    words = _train_parser(command).parse_intermixed_args(argv)
    config = load_described(words, words.name, defaults)
    return config, TrainOptions(words.dry_run, words.print_config, words.config)


def load_described(words: argparse.Namespace, name: str | None = None, defaults: Sequence[str] = ()) -> Config:
    """Return the config of a new run that -c, --data, --preset and settings describe. Raises UsageError."""
    for word in words.settings:
        _check_setting(word)
    overrides, unless_set = settings_of_options(words.data, name)
    overrides += [] if words.preset is None else [f"preset={words.preset}"]
    return load_config(words.config, [*overrides, *words.settings], [*unless_set, *defaults])


def _train_parser(command: str) -> Parser:
    parser = Parser(
        prog=f"distcls {command}",
        description=f"{TRAINING[command]} If it is stopped, run the same command to resume.",
        epilog="Write settings as key=value, such as optim.lr=3e-4 or train.num_epochs=10; "
        "--print-config lists them all, and distcls/config/settings.py explains them.",
    )
    add_config_file(parser)
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of images, DIR/CLASS/*.jpg, or a .csv or .npz file; short for data.root=DIR data.name=folder",
    )
    parser.add_argument(
        "--preset",
        choices=("none", *PRESETS),
        help="recipe for photographs; without this and -c, balanced for your own images from 64 pixels on, else none",
    )
    parser.add_argument("--name", help="name of the run; its folder is runs/NAME (short for run.name=NAME)")
    parser.add_argument("--dry-run", action="store_true", help="show what would happen, and stop before the first step")
    parser.add_argument("--print-config", action="store_true", help="print all settings as YAML, and exit")
    parser.add_argument("settings", nargs="*", metavar=SETTINGS, help="settings that override those of the file")
    return parser


def settings_of_options(data: str | None, name: str | None) -> tuple[list[str], list[str]]:
    """Return the overrides, and those that apply only if the setting is not given elsewhere. JSON quotes for YAML.

    Raises UsageError if `data` is empty.
    """
    overrides = [] if name is None else [override("run.name", name)]
    if data is None:
        return overrides, []
    if not data.strip():
        raise UsageError(f"--data {data!r} is empty: a shell variable may be unset. Give the folder of your images")
    return [*overrides, override("data.root", data)], [f"data.name={kind_of_data(data) or 'folder'}"]


def kind_of_data(path: str) -> str | None:
    """Return data.name for the path of --data, from its suffix or because it is a folder; None if neither tells."""
    kind = {".csv": "csv", ".npz": "npz"}.get(Path(path).suffix.lower())
    return kind or ("folder" if os.path.isdir(path) else None)


def override(key: str, text: str) -> str:
    """Return a setting as an argument whose value is read as text, whatever it contains: YAML reads JSON's quotes."""
    return f"{key}={json.dumps(text, ensure_ascii=False)}"


def settings_of_moved(images: str | None, run_dir: Path, are_others: bool = False) -> list[str]:
    """Return the settings that say where a run's images are now, or other ones: their place and how they are stored.

    are_others: the images are not the run's own, so they are read as files even if the run used a data set such as
    cifar10. Raises MissingInputError if this is not a run folder.
    """
    if images is None:
        return []
    check_run_folder(run_dir)
    kind = kind_of_data(images)
    before = read_config(run_dir / "config.yaml").data
    settings = [override("data.root", images)]
    if kind is not None and before.name in KINDS_OF_PATHS:
        settings.append(f"data.name={kind}")
        if kind != before.name and (before.has_group_column or kind in WITHOUT_PATHS):
            settings.append("data.groups=null")
    elif kind is not None and are_others and ":" not in before.name:  # a class of the user's own may read any folder
        settings += [f"data.name={kind}", "data.args={}", "data.download=false"]
    return settings


def check_can_write(path: Path | None, is_folder: bool = False) -> None:
    """Check, before anything slow, that a file or a folder can be written; None is nothing to write.

    Raises MissingInputError if it would lie in a folder that does not exist, UsageError for a folder where a file is
    meant or the other way round, and DiskError if it may not be written.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise MissingInputError(f"{path} cannot be written: there is no folder {path.parent}. Create it first.")
    if path.is_dir() and not is_folder:
        raise UsageError(f"{path} cannot be written: it is a folder. Give the name of a file, such as {path}/NAME")
    if is_folder and path.exists() and not path.is_dir():
        raise UsageError(f"{path} cannot be written: it is a file. Give the name of a folder, new or not")
    # A file is replaced, which changes its folder.
    written = path if path.is_dir() or is_device(path) else path.parent
    if not os.access(written, os.W_OK):
        raise DiskError(f"{path} cannot be written: you may not write to {written}. Give another place.")


def _check_setting(word: str) -> None:
    if "=" in word:
        return
    if word.endswith((".yaml", ".yml")):
        raise UsageError(f"{word!r} is not a setting: did you mean -c {word}?")
    if os.path.isdir(word):
        raise UsageError(f"{word!r} is not a setting: did you mean --data {word}?")
    if word in settings_like(word):
        raise UsageError(f"{word} has no value: write settings without spaces, {word}=VALUE")
    raise UsageError(f"{word!r} is not a setting: write settings as key=value, such as optim.lr=3e-4")


def _unknown_option(word: str, options: Sequence[str], takes_settings: bool) -> str:
    """Return the message for an unknown option such as --lr, --optim.lr=1 or --dryrun."""
    name, _, value = word.partition("=")
    without_dashes = {option.lstrip("-"): option for option in options}
    near = difflib.get_close_matches(name.lstrip("-"), without_dashes, n=1)
    if near:
        return f"unknown option {word}: did you mean {without_dashes[near[0]]}?"
    settings = settings_like(name.lstrip("-").replace("-", "_")) if takes_settings else []
    if settings:
        meant = " or ".join(f"{setting}={value or 'VALUE'}" for setting in settings)
        return f"unknown option {word}: settings have no dashes: did you mean {meant}?"
    return f"unknown option {word}: the options are {', '.join(options)}"
