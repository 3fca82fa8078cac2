"""`distcls summary`: shows the layers of a model, and how large and how fast it is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distcls.commands.arguments import SETTINGS, TRUST, Parser, add_config_file, check_can_write, settings_of_options
from distcls.config.loading import load_config
from distcls.config.settings import Config
from distcls.errors import MissingInputError, UsageError
from distcls.files.atomic import naming_disk_errors, write_json
from distcls.runs.opening import check_run_folder, opened_run

NAMING_DATA = ("data.name=", "data.root=")
"""Settings that say which data a model is for."""


def main(argv: Sequence[str]) -> int:
    """Print the summary of a run's model, or of the one that settings describe."""
    options = _parser().parse_intermixed_args(argv)
    for option in ("--depth", "--classes", "--image-size"):
        value = _value(options, option)
        if value is not None and value < 1:
            raise UsageError(f"{option} {value}: give a whole number, 1 or more.")
    check_can_write(options.json)
    run_dir = _run_among(options)
    if run_dir is not None:
        # The model is the same on every device; the one that it was trained on may not be here.
        with opened_run(run_dir, ["model"], ["run.device=auto"], options.trust) as config:
            from distcls.inference.classifier import read_task
            from distcls.report.model_summary import print_summary, summarize

            class_names, decoding = read_task(run_dir)
            summary = summarize(config, class_names, decoding, not options.no_latency)
    else:
        overrides, unless_set = settings_of_options(options.data, None)
        config = load_config(options.config, [*overrides, *options.words], unless_set)
        has_data = bool(options.config or options.data) or any(word.startswith(NAMING_DATA) for word in options.words)
        from distcls.report.model_summary import print_summary, summarize_new

        config = _with_preset(config, has_data)
        summary = summarize_new(config, options.classes, options.image_size, has_data, not options.no_latency)
    print_summary(summary, options.depth)
    if options.json is not None:
        with naming_disk_errors(options.json):
            write_json(options.json, summary.as_json())
    return 0


def _with_preset(config: Config, has_data: bool) -> Config:
    """Return the config with the network and image size that a preset would choose, as the header of a run shows them.

    Raises MissingInputError if a preset was asked for that needs to see images, which are not here.
    """
    is_in_doubt = config.preset == "auto"
    if config.is_given("model.name") or not config.may_have_preset or (is_in_doubt and not has_data):
        return config
    from distcls.training.start.dry_run import settled

    try:  # of what is chosen, the summary shows the network and its images, for any device
        found = settled(config.replaced({"run.device": "auto", "train.precision": "float32"}))
        return found.replaced({"run.device": config.run.device, "train.precision": config.train.precision})
    except MissingInputError:
        if is_in_doubt:
            return config
        raise


def _parser() -> Parser:
    parser = Parser(
        prog="distcls summary",
        usage="distcls summary [RUN | -c FILE] [--depth N] [--classes N] [--image-size N] [--no-latency] [--json FILE] "
        "[key=value ...]",
        description="Show the layers of a model, its parameters, FLOPs, memory and latency: of a run's model, or of "
        "the one that settings describe. Nothing is downloaded or trained.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar=SETTINGS,
        help="settings, such as model.name=torchvision/resnet18; an argument without = is a run folder",
    )
    add_config_file(parser)
    parser.add_argument("--data", metavar="DIR", help="images that decide the number of classes and their size")
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes (default: the data's, or 10)")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="pixels a side (default: the data's, or what the model is made for)"
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="levels of modules to show (default: what fits a screen)"
    )
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency, which takes a few seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, with all layers, as JSON")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def _run_among(options: argparse.Namespace) -> Path | None:
    """Return the run folder among the words; None if all are settings. Raises UsageError or MissingInputError."""
    runs = [word for word in options.words if "=" not in word or Path(word).is_dir()]
    if not runs:
        return None
    run = runs[0]
    if run.endswith((".yaml", ".yml")):
        raise UsageError(f"{run!r} is not a run folder: did you mean -c {run}?")
    if not Path(run).exists():
        try:
            check_run_folder(Path(run))
        except MissingInputError as error:
            raise MissingInputError(
                f"{error} A model that is not trained yet is a setting, model.name=NAME: see distcls models."
            ) from error
    given = [word for word in options.words if word != run]
    given += [option for option in ("--config", "--data", "--classes", "--image-size") if _value(options, option)]
    if given:
        raise UsageError(
            f"{given[0]}: the model of a run stays as it was trained. Leave this out, or start from the run's "
            f"settings: distcls summary -c {run}/config.yaml"
        )
    return Path(run)


def _value(options: argparse.Namespace, option: str) -> Any:
    return getattr(options, option.removeprefix("--").replace("-", "_"))
