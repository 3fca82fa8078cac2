"""The `distcls` script: which command the words name, and how an error becomes a message and an exit code."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from distcls import __version__
from distcls.commands.exit_codes import run_command
from distcls.errors import UsageError

COMMANDS = {
    "train": ("distcls.commands.train", "train a model, or go on with a run that was stopped"),
    "crossval": (
        "distcls.commands.crossval",
        "train once for each of data.folds parts of the data, and report mean ± std",
    ),
    "submit": ("distcls.commands.submit", "train on a Slurm cluster: queued, requeued and resumed"),
    "eval": ("distcls.commands.evaluate", "measure a trained model on a split of its data"),
    "predict": ("distcls.commands.predict", "name what is on images, with a trained model"),
    "report": ("distcls.commands.report", "draw the plots of a run again, from its folder alone"),
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
