"""The command line: what each command reads from its words, and how an error becomes a message and an exit code.

Nothing slow is imported here before the words are understood, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import select
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from distcls import __version__
from distcls.config import Config
from distcls.config_loader import load_config
from distcls.config_messages import settings_like
from distcls.config_schema import json_schema
from distcls.errors import DiskError, DistclsError, Preempted, UsageError, explain, note_exit_code

Main = Callable[[Sequence[str]], int | None]


@dataclass(frozen=True)
class TrainOptions:
    """What the words of `distcls train` say beside settings. A run without a name is named after `config_path`."""

    dry_run: bool
    print_config: bool
    config_path: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """The `distcls` script: run the command that the words name, and return the exit code."""
    return run_command(_run, argv)


def run_command(command: Main, argv: Sequence[str] | None) -> int:
    """Call a command with words (by default those of the process); the exit code, 0 where it returns None.

    An error of distcls becomes its message and its exit code; a bug keeps its traceback.
    """
    code = 1  # a traceback's
    try:
        code = _exit_code(command, argv)
        return code
    finally:
        note_exit_code(code)


def _exit_code(command: Main, argv: Sequence[str] | None) -> int:
    try:
        code = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code or 0
    except DistclsError as error:
        if os.environ.get("RANK", "0") == "0" or not error.on_all_ranks:
            is_good_news = error.exit_code in (0, Preempted.exit_code)
            print(f"distcls: {error}" if is_good_news else f"distcls: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return 141  # what a shell reports for SIGPIPE
    except (OSError, RuntimeError) as error:
        understood = explain(error)
        if understood is None:
            raise
        print(f"distcls: error: {understood}", file=sys.stderr)
        return understood.exit_code


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads, as in `distcls … | head`; any other broken pipe is a bug."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


# Commands ------------------------------------------------------------------------------------------


def _train(argv: Sequence[str]) -> int | None:
    from distcls.train import main

    return main(argv)


def _crossval(argv: Sequence[str]) -> int | None:
    from distcls.crossval import main

    return main(argv)


def _submit(argv: Sequence[str]) -> int | None:
    from distcls.submit import main

    return main(argv)


def _eval(argv: Sequence[str]) -> int | None:
    from distcls.evaluate import main

    return main(argv)


def _predict(argv: Sequence[str]) -> int | None:
    from distcls.predict import main

    return main(argv)


def _check(argv: Sequence[str]) -> int | None:
    from distcls.check import main

    return main(argv)


def _doctor(argv: Sequence[str]) -> int | None:
    from distcls.doctor import main

    return main(argv)


def _config(argv: Sequence[str]) -> int:
    """Print the JSON schema of configs, or write it to a file."""
    parser = Parser(prog="distcls config", description="About configs themselves.")
    actions = parser.add_subparsers(metavar="schema", required=True)
    text = "Print the JSON schema with which editors complete and check YAML configs."
    schema = actions.add_parser("schema", help=text, description=text)
    schema.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it to this file")
    output = parser.parse_args(argv).output
    text = json.dumps(json_schema(), indent=2) + "\n"
    if output is None:
        print(text, end="")
        return 0
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskError(f"{output}: cannot write the schema ({error.strerror})") from error
    return 0


COMMANDS: dict[str, tuple[Main, str]] = {
    "train": (_train, "train a model, or go on with a run that was stopped"),
    "crossval": (_crossval, "train once for each of data.folds parts of the data, and report mean ± std"),
    "submit": (_submit, "train on a Slurm cluster: queued, requeued and resumed"),
    "eval": (_eval, "measure a trained model on a split of its data"),
    "predict": (_predict, "name what is on images, with a trained model"),
    "check": (_check, "look for what is wrong with a folder of images, before training"),
    "doctor": (_doctor, "say what this machine has, what will go wrong on it, and how to mend it"),
    "config": (_config, "config schema: print the JSON schema of configs, for editors"),
}

HELP = f"""usage: distcls COMMAND [-h] ...

Trains image classifiers: a folder of images in, a trained and measured model out.

commands:
{chr(10).join(f"  {name:<10}{line}" for name, (_, line) in COMMANDS.items())}

options:
  -h, --help  this help; `distcls COMMAND --help` explains a command
  --version   the version

quick start:
  distcls train                                  # small images of digits that come along; no GPU, no download
  distcls train --data DIR --name flowers        # your images: DIR/CLASS/*.jpg
  distcls predict runs/flowers photo.jpg         # what the model says of an image
"""


def _run(argv: Sequence[str]) -> int | None:
    if not argv:
        print(HELP, end="", file=sys.stderr)
        return 2
    word, *rest = argv
    if word in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if word == "--version":
        print(f"distcls {__version__}")
        return 0
    if word not in COMMANDS:
        near = difflib.get_close_matches(word, COMMANDS, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {word!r}: {meant}")
    command, _ = COMMANDS[word]
    return command(rest)


# The words of each command -------------------------------------------------------------------------


SETTINGS = "key=value"
"""Stands in help for settings of the config."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit, and takes no abbreviations."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **arguments})

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_intermixed_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Options and other words, in any order. Raises UsageError."""
        words, unknown = self.parse_known_intermixed_args(list(args), namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            takes_settings = any(action.metavar == SETTINGS for action in self._actions)
            self.error(_unknown_option(unknown[0], options, takes_settings))
        return words


TRAINING = {
    "train": "Train a model.",
    "crossval": "Train a model once for each of data.folds=K parts of the images, which is val then, in run folders "
    "NAME-fold0 and so on; then print mean and standard deviation, and write them to NAME-crossval.json.",
}
"""What the commands that take these words do."""


def parse_train_arguments(argv: Sequence[str], command: str = "train") -> tuple[Config, TrainOptions]:
    """The settings and options of `distcls train`, `python -m distcls.train` and `distcls crossval`.

    Raises UsageError.
    """
    words = _train_parser(command).parse_intermixed_args(argv)
    for word in words.settings:
        _check_setting(word)
    overrides, unless_set = _settings_of_options(words.data, words.name)
    config = load_config(words.config, [*overrides, *words.settings], unless_set)
    return config, TrainOptions(words.dry_run, words.print_config, words.config)


def _train_parser(command: str) -> Parser:
    parser = Parser(
        prog=f"distcls {command}",
        description=f"{TRAINING[command]} The same command again goes on with what was stopped.",
        epilog="Settings are given as key=value, such as optim.lr=3e-4 or train.num_epochs=10; "
        "--print-config shows all of them, distcls/config.py explains them.",
    )
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="YAML file with settings")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of images, DIR/CLASS/*.jpg: data.root=DIR data.name=folder; or a .csv or .npz file",
    )
    parser.add_argument("--name", help="name of the run, whose folder is runs/NAME: run.name=NAME")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, and stop before the first step")
    parser.add_argument("--print-config", action="store_true", help="print all settings as YAML, and stop")
    parser.add_argument("settings", nargs="*", metavar=SETTINGS, help="settings, over those of the file")
    return parser


@dataclass(frozen=True)
class CheckOptions:
    """What the words of `distcls check` say beside settings."""

    config_path: Path | None
    json_file: str | None
    """Where to write what was found; "-" is stdout."""
    plots: Path | None
    strict: bool


def parse_check_arguments(argv: Sequence[str]) -> tuple[Config, CheckOptions]:
    """The settings and options of `distcls check`. Raises UsageError."""
    words = _check_parser().parse_intermixed_args(argv)
    folders = [word for word in words.settings if "=" not in word]
    if words.data is not None:
        folders.append(words.data)
    if len(folders) > 1:
        raise UsageError(f"give one folder of images, or settings written key=value, not {' and '.join(folders)}")
    overrides, unless_set = _settings_of_options(folders[0] if folders else None, None)
    settings = [word for word in words.settings if "=" in word]
    config = load_config(words.config, [*overrides, *settings], unless_set)
    return config, CheckOptions(words.config, words.json, words.plots, words.strict)


def _check_parser() -> Parser:
    parser = Parser(
        prog="distcls check",
        usage="distcls check [DIR] [-c FILE] [--json FILE] [--plots DIR] [--strict] [key=value ...]",
        description="Decode all images and look for what is wrong with them: unreadable files, copies in more than one "
        "split or class, too few images. Exit code 65 if training would refuse them.",
    )
    parser.add_argument(
        "settings", nargs="*", metavar=SETTINGS, help="settings; a word without = is the folder of images"
    )
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="YAML file with settings")
    parser.add_argument("--data", metavar="DIR", help="the folder of images, DIR/CLASS/*.jpg, said as for train")
    parser.add_argument("--json", metavar="FILE", help="also write all that was found; - is stdout, and nothing else")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also draw samples, classes, sizes and colours there")
    parser.add_argument("--strict", action="store_true", help="exit code 65 also for warnings, and for any bad file")
    return parser


def _settings_of_options(data: str | None, name: str | None) -> tuple[list[str], list[str]]:
    """Overrides, and those that apply only where nothing else is said. JSON quotes words for YAML."""
    overrides = [] if name is None else [override("run.name", name)]
    if data is None:
        return overrides, []
    name = {".csv": "csv", ".npz": "npz"}.get(Path(data).suffix.lower(), "folder")
    return [*overrides, override("data.root", data)], [f"data.name={name}"]


def override(key: str, text: str) -> str:
    """A setting as a word of the command line, whose value is text whatever stands in it: YAML reads JSON's quotes."""
    return f"{key}={json.dumps(text, ensure_ascii=False)}"


def _check_setting(word: str) -> None:
    if "=" in word:
        return
    if word.endswith((".yaml", ".yml")):
        raise UsageError(f"{word!r} is not a setting: did you mean -c {word}?")
    if os.path.isdir(word):
        raise UsageError(f"{word!r} is not a setting: did you mean --data {word}?")
    raise UsageError(f"{word!r} is not a setting: settings are written key=value, such as optim.lr=3e-4")


def _unknown_option(word: str, options: Sequence[str], takes_settings: bool) -> str:
    """What to say of --lr, --optim.lr=1 or --dryrun."""
    name, _, value = word.partition("=")
    without_dashes = {option.lstrip("-"): option for option in options}
    near = difflib.get_close_matches(name.lstrip("-"), without_dashes, n=1)
    if near:
        return f"unknown option {word}: did you mean {without_dashes[near[0]]}?"
    settings = settings_like(name.lstrip("-").replace("-", "_")) if takes_settings else []
    if settings:
        meant = " or ".join(f"{setting}={value or 'VALUE'}" for setting in settings)
        return f"unknown option {word}: settings are written without dashes: did you mean {meant}?"
    return f"unknown option {word}: the options are {', '.join(options)}"
