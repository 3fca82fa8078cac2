"""Compares two ways of doing the same work on a machine that others use too.

The sides take turns in short blocks (A B C A B C …), so a burst of foreign load hits all of them. Ratios
are taken within each turn, and their median is reported: no figure comes from two different runs. Beside
the wall clock, the processor time of this process is kept: other people's load hardly moves it. (With
more than one thread it contains the spinning of threads that wait for each other, so use one.)
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

SHARED_ZIP = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10-jpeg.zip"
CACHE = Path("~/.cache/distcls/benchmarks").expanduser()


@dataclass
class Seconds:
    """Per step, turn by turn: by the clock, and of processor time in this process (not in its children)."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


Timings = dict[str, Seconds]
"""By the name of the side."""


def alternate(
    sides: Mapping[str, Iterator[None]],
    turns: int,
    steps: int,
    lead_in: int,
    synchronize: Callable[[], object] = lambda: None,
) -> Timings:
    """Take `steps` timed steps of each side in every turn, after `lead_in` that are not timed.

    The lead-in uses up what a side has prefetched while the others ran, and warms the caches again.
    """
    timings: Timings = {}
    for _ in in_turns(timings, sides, turns, steps, lead_in, synchronize):
        raise AssertionError("every side is an iterator")
    return timings


def in_turns(
    timings: Timings,
    sides: Mapping[str, Iterator[None] | None],
    turns: int,
    steps: int,
    lead_in: int,
    synchronize: Callable[[], object] = lambda: None,
    begin: Callable[[str], object] = lambda _: None,
) -> Iterator[None]:
    """Do the same as `alternate`, for a side with a loop of its own, which is None in `sides`; fill `timings`.

    That loop advances this iterator before each of its steps. The other sides take their turns while it waits for it,
    so all of them run in one thread, and handing over costs nothing. begin: called with the name of the side whose turn
    comes, for sides that are one loop in different states.
    """
    timings.update({name: Seconds() for name in sides})
    for _ in range(turns):
        for name, side in sides.items():
            begin(name)
            yield from _take(side, lead_in)
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            yield from _take(side, steps)
            synchronize()
            timings[name].wall.append((time.perf_counter() - wall) / steps)
            timings[name].cpu.append((time.process_time() - cpu) / steps)


def _take(side: Iterator[None] | None, steps: int) -> Iterator[None]:
    for _ in range(steps):
        if side is None:
            yield
        else:
            next(side)


def output_of(words: list[str], cwd: Path, environment: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a command prints, with these environment variables added. Ends the benchmark if it fails."""
    done = subprocess.run(words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words[:2]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios within each turn, and their quartiles."""
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def note(benchmark: str, case: str, side: str, unit: str, median_and_quartiles: tuple[float, float, float]) -> None:
    """Append a figure as a line of JSON to the file that BENCHMARK_RESULTS names, if it does (see table.py)."""
    path = os.environ.get("BENCHMARK_RESULTS")
    if path:
        value, low, high = median_and_quartiles
        row = {
            "benchmark": benchmark,
            "case": case,
            "side": side,
            "unit": unit,
            "value": value,
            "low": low,
            "high": high,
        }
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")


def conditions() -> str:
    """One line on when and on what this was measured, and how busy that was."""
    import torch

    from distcls.cluster.cpu import cpu_name

    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores {cpu_name()}, "
        f"python {platform.python_version()}, torch {torch.__version__}, load {load}"
    )


def cifar_folder(given: Path | None) -> Path:
    """CIFAR-10 as JPEGs, DIR/train/CLASS/*.jpg: the folder given, or the zip beside the project, unpacked once."""
    if given is not None:
        return given
    folder = CACHE / "cifar10-jpeg"
    if not (folder / "test").is_dir():
        if not SHARED_ZIP.exists():
            raise SystemExit(f"{SHARED_ZIP} is not there: give the folder of CIFAR-10 JPEGs with --data DIR")
        unpacking = CACHE / f"unpacking-{os.getpid()}"
        with zipfile.ZipFile(SHARED_ZIP) as archive:
            archive.extractall(unpacking)
        os.replace(unpacking, folder)
    return folder
