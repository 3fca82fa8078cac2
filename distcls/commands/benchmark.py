"""`distcls benchmark`: measures how fast a config trains here, and finds a batch size or a learning rate for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from distcls.cluster import signals
from distcls.commands.arguments import SETTINGS, Parser, add_config_file, check_can_write, load_described
from distcls.config.settings import PRESETS
from distcls.errors import UsageError

PLOT = "lr_range.png"


def main(argv: Sequence[str]) -> int:
    """Run `distcls benchmark`, which takes the settings of `distcls train`."""
    options = _parser().parse_intermixed_args(argv)
    for option in ("steps", "seconds"):
        if getattr(options, option) <= 0:
            raise UsageError(f"--{option} {getattr(options, option)}: give a number above 0.")
    plot = options.plot or (Path(PLOT) if options.find == "lr" else None)
    for file in (options.json, options.profile, plot):
        check_can_write(file)
    if options.find and options.profile:
        raise UsageError("--profile splits steps of the config as it is: leave out --find.")
    config = load_described(options)
    signals.install(second_leaves=True)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler talks, also on machines without a GPU
    if options.find == "batch":
        from distcls.benchmark.screens import find_batch

        find_batch(config, options.json)
    elif options.find == "lr":
        from distcls.benchmark.screens import find_lr_and_plot

        find_lr_and_plot(config, max(options.steps, 100), plot or Path(PLOT), options.json)
    else:
        from distcls.benchmark.screens import show_speed

        show_speed(config, options.steps, options.seconds, options.profile, options.json)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="distcls benchmark",
        description="Measure how fast a config trains on this machine: images per second, what a step consists of, and "
        "memory. It trains for a few seconds in a temporary folder; existing runs are left alone.",
        epilog="With several processes: torchrun --nproc-per-node 2 -m distcls benchmark …",
    )
    add_config_file(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of images, or a .csv or .npz file")
    parser.add_argument("--preset", choices=("none", *PRESETS), help="recipe for photographs, as for distcls train")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="steps to time (default: 50)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="time fewer steps if they take longer (default: 20)"
    )
    parser.add_argument(
        "--find",
        choices=("batch", "lr"),
        help="batch: try larger and larger micro-batches; lr: run a learning-rate range test",
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a trace that ui.perfetto.dev opens")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"where --find lr draws its curve (default: {PLOT})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument("settings", nargs="*", metavar=SETTINGS, help="settings that override those of the file")
    return parser
