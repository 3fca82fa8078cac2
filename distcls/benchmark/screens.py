"""Prints what `distcls benchmark` finds, and writes it as JSON, on the main process."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from distcls.benchmark.batch_size import Tried, try_batch_sizes
from distcls.benchmark.lr_range import find_lr, plot_range
from distcls.benchmark.profile import StepProfiler
from distcls.benchmark.timing import Limits, Speed, measure
from distcls.config.settings import Config
from distcls.config.wording import count
from distcls.files.atomic import naming_disk_errors, write_json
from distcls.models.layers import CONVENTION
from distcls.terminal.columns import three_digits
from distcls.terminal.screens import open_screen

INDENT = 13


def show_speed(config: Config, steps: int, seconds: float, trace: Path | None, json: Path | None) -> None:
    """Measure a config's speed and print it. trace: where to write the profiler's. Raises what `train` raises."""
    is_main = _is_main()
    if is_main:
        print("measuring; the first time, images may have to be decoded …", file=sys.stderr, flush=True)
    speed = measure(config, Limits(steps=steps, seconds=seconds), StepProfiler(trace if is_main else None))
    if not is_main:
        return
    screen = open_screen(sys.stdout)
    for name, value in _lines(speed):
        screen.say(f"{name:<{INDENT}}{value}", label_width=INDENT)
    if trace is not None:
        screen.say(f"{'trace':<{INDENT}}{trace}: open it at https://ui.perfetto.dev", label_width=INDENT)
    if json is not None:
        with naming_disk_errors(json):
            write_json(json, speed.as_json())


def _lines(speed: Speed) -> list[tuple[str, str]]:
    processes = count(speed.world_size, "process")
    threads = f" of {count(speed.num_threads, 'thread')}" if speed.device == "cpu" else ""
    step = f"{three_digits(1000 * speed.seconds_per_step)} ms a step of {count(speed.global_batch_size, 'image')}"
    where = "on this CPU" if speed.device == "cpu" else f"on {speed.device}"
    matrix = f"{_flops(speed.matrix_flops)}/s in a matrix product in {speed.precision} {where}"
    lines = [
        (
            "model",
            f"{speed.model}, {speed.num_parameters:,} parameters, {speed.image_size} × {speed.image_size} pixels",
        ),
        ("on", f"{speed.device}, {processes}{threads}, {speed.precision}"),
        (
            "speed",
            f"{three_digits(speed.images_per_second)} images/s, {step}"
            f" (mean of {count(speed.num_steps, 'step')}; median {three_digits(1000 * speed.median_seconds)} ms)",
        ),
        ("memory", f"{speed.peak_bytes / 2**30:,.2f} GiB at most{'' if speed.device == 'cpu' else ', on the GPU'}"),
        ("matrix rate", matrix),
    ]
    if speed.flops:
        lines += [
            ("compute", f"{_flops(speed.flops)} per image forward ({CONVENTION})"),
            ("", f"training takes about 3 times as many: {speed.share_of_matrix_rate:.0%} of the matrix rate"),
        ]
    if speed.profile is not None:
        total = sum(speed.profile.values())
        lines += [
            ("a step" if i == 0 else "", f"{name:<10}{seconds / total:>4.0%}  {1000 * seconds:8.2f} ms")
            for i, (name, seconds) in enumerate(speed.profile.items())
        ]
    return lines


def _flops(number: float) -> str:
    for unit, name in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if number >= unit:
            return f"{three_digits(number / unit)} {name}"
    return f"{number:,.0f} FLOP"


def find_batch(config: Config, json: Path | None) -> None:
    """Print the speed and memory of larger and larger micro-batches, then the largest and the fastest."""
    is_main = _is_main()
    screen = open_screen(sys.stdout)
    if is_main:
        screen.say(f"{'micro-batch':>11}{'images/s':>12}{'memory':>12}", "bold")

    def tell(tried: Tried) -> None:
        if is_main:
            screen.say(_row(tried))

    tried = try_batch_sizes(config, tell)
    fitting = [one for one in tried if one.fits]
    if is_main and fitting:
        fastest = max(fitting, key=lambda one: one.images_per_second or 0)
        screen.say("")
        screen.say(f"largest that fits: train.micro_batch_size={max(one.size for one in fitting)}")
        screen.say(f"fastest: train.micro_batch_size={fastest.size}")
        screen.say("A larger global batch usually needs a larger learning rate: try distcls benchmark --find lr.")
    if is_main and json is not None:
        with naming_disk_errors(json):
            write_json(json, [dataclasses.asdict(one) for one in tried])


def _row(tried: Tried) -> str:
    if tried.images_per_second is None:
        return f"{tried.size:>11,}  {tried.why or 'does not fit'}"
    memory = f"{(tried.peak_bytes or 0) / 2**30:,.2f} GiB"
    return f"{tried.size:>11,}{three_digits(tried.images_per_second):>12}{memory:>12}"


def find_lr_and_plot(config: Config, num_steps: int, plot: Path, json: Path | None) -> None:
    """Run a learning-rate range test, print the suggestion, and draw its curve."""
    is_main = _is_main()
    if is_main:
        print(f"training for {count(num_steps, 'step')} with a growing learning rate …", file=sys.stderr, flush=True)
    found = find_lr(config, num_steps)
    if not is_main:
        return
    screen = open_screen(sys.stdout)
    screen.say(f"suggestion: optim.lr={found.suggestion:.1e}, where the loss falls fastest")
    screen.say(f"it diverges above {found.lrs[-1]:.1e}" if len(found.lrs) < num_steps else "it never diverged")
    plot_range(found, plot)
    screen.say(f"plot: {plot}")
    if json is not None:
        with naming_disk_errors(json):
            write_json(json, dataclasses.asdict(found))


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0
