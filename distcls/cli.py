"""The `distcls` script: finds the command that was typed, and turns errors into messages and exit codes."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from distcls import __version__
from distcls.commands.exit_codes import run_command
from distcls.errors import UsageError

COMMANDS = {
    "train": ("distcls.commands.train", "train a model, or resume a run that was stopped"),
    "crossval": (
        "distcls.commands.crossval",
        "train once for each fold of the data (data.folds), and report mean ± std",
    ),
    "sweep": ("distcls.commands.sweep", "search for good settings: grid, random or TPE, with pruning"),
    "submit": ("distcls.commands.submit", "train on a Slurm cluster, with requeueing and resuming"),
    "eval": ("distcls.commands.evaluate", "evaluate a trained model on a split of its data"),
    "predict": ("distcls.commands.predict", "classify images with a trained model"),
    "compare": ("distcls.commands.compare", "show runs side by side: settings, metrics, time, and what may be chance"),
    "export": ("distcls.commands.export", "write a trained model as one file for other programs: ONNX, PyTorch …"),
    "push": ("distcls.commands.push", "put a trained model on the Hugging Face Hub, with a card and a page to try it"),
    "serve": ("distcls.commands.serve", "answer requests over HTTP with a trained model, and show a demo page"),
    "report": ("distcls.commands.report", "make a run's report and plots again, from its folder alone"),
    "track": ("distcls.commands.track", "send a run to Weights & Biases, MLflow or Trackio"),
    "models": ("distcls.commands.models", "list models: built-in ones, and those of torchvision and timm"),
    "summary": ("distcls.commands.summary", "show a model's layers, parameters, FLOPs, memory and latency"),
    "benchmark": ("distcls.commands.benchmark", "measure training speed here; find a batch size or a learning rate"),
    "audit": (
        "distcls.commands.audit",
        "find probably wrong labels and near-duplicate images, with a page of pictures",
    ),
    "check": ("distcls.commands.check", "find problems in a folder of images before training"),
    "doctor": ("distcls.commands.doctor", "check this machine: what it has, what is wrong, and how to fix it"),
    "config": ("distcls.commands.config", "config schema: print the JSON schema of configs, for editors"),
}
"""For each command, the module whose `main` takes its arguments (imported only when needed) and a line of help."""

HELP = f"""usage: distcls COMMAND [-h] ...

Trains image classifiers: a folder of images in, a trained and evaluated model out.

commands:
{chr(10).join(f"  {name:<10}{line}" for name, (_, line) in COMMANDS.items())}

options:
  -h, --help  show this help; `distcls COMMAND --help` explains a command
  --version   show the version

quick start:
  distcls train                                  # bundled images of digits; no GPU, no download
  distcls train --data DIR --name flowers        # your images: DIR/CLASS/*.jpg
  distcls predict runs/flowers photo.jpg         # classify an image
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit code."""
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
