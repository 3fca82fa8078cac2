"""The `distcls` script: which command the words name, and how an error becomes a message and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import select
import sys
from collections.abc import Callable, Sequence

from distcls import __version__
from distcls.errors import DistclsError, Preempted, UsageError, explain, note_exit_code

Main = Callable[[Sequence[str]], int | None]

COMMANDS = {
    "train": ("distcls.train", "train a model, or go on with a run that was stopped"),
    "crossval": (
        "distcls.commands.crossval",
        "train once for each of data.folds parts of the data, and report mean ± std",
    ),
    "submit": ("distcls.commands.submit", "train on a Slurm cluster: queued, requeued and resumed"),
    "eval": ("distcls.commands.evaluate", "measure a trained model on a split of its data"),
    "predict": ("distcls.commands.predict", "name what is on images, with a trained model"),
    "check": ("distcls.commands.check", "look for what is wrong with a folder of images, before training"),
    "doctor": ("distcls.commands.doctor", "say what this machine has, what will go wrong on it, and how to mend it"),
    "config": ("distcls.commands.config", "config schema: print the JSON schema of configs, for editors"),
}
"""The module whose `main` takes a command's words, imported only then, and a line of help."""

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


def main(argv: Sequence[str] | None = None) -> int:
    """The `distcls` script: run the command that the words name, and return the exit code."""
    return run_command(_run, argv)


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
    module, _ = COMMANDS[word]
    return importlib.import_module(module).main(rest)


def run_command(command: Main, argv: Sequence[str] | None) -> int:
    """Call a command with words (by default those of the process); the exit code, 0 where it returns None.

    An error of distcls becomes its message and its exit code; a bug keeps its traceback.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the process was started without one
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
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
