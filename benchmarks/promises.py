"""What each promise costs in a step of the loop that users run: milliseconds, with each switched off in turn.

The loop of `distcls train` runs in one process. In each turn it takes a few steps as it is, a few with one part
replaced by nothing (or by numbers computed before), and a few with all of them replaced. The cost of a part is the
median, over the turns, of the difference to the steps as they are.

    python benchmarks/promises.py
    python benchmarks/promises.py --turns 100 --batch 256
    python benchmarks/promises.py --quick
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from side_by_side import Timings, cifar_folder, conditions, in_turns, note
from train_loop import loop_config, run_in_turns

from distcls.data.loading import loader
from distcls.data.loading.micro_batch import MicroBatch
from distcls.plan.batches import BatchPlan
from distcls.training import step
from distcls.training.objectives.objective import Terms
from distcls.training.statistics import BatchNormStatistics
from distcls.training.step import TrainStep
from distcls.training.watch import Watch

AS_IT_IS, ALL = "as it is", "all of them"

LEAD_IN = 8
"""Steps that are not timed, after a change. Random numbers are drawn for 8 steps at a time, so steps are a multiple."""

RANDOM, PLAN, SEEDS = (
    "random numbers of each step, keyed",
    "the plan's images",
    "generators seeded for each micro-batch",
)
NORM, STATISTICS, LAYOUT = "the gradient's norm", "BatchNorm's statistics, exact", "losses and modes checked"
WATCH = "finite numbers, metrics.csv, status.json, the screen"


def first_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives what `function` gave when it was first called."""
    kept: list[Any] = []

    def again(*args: Any, **named: Any) -> Any:
        if not kept:
            kept.append(function(*args, **named))
        return kept[0]

    return again


def cycled(function: Callable[..., Any], number: int = 64) -> Callable[..., Any]:
    """Return a function that computes the first `number` results ahead, and then gives them in turns."""
    results: Iterator[Any] | None = None

    def following(self: Any, _: int) -> Any:
        nonlocal results
        if results is None:
            results = itertools.cycle([function(self, step) for step in range(number)])
        return next(results)

    return following


def zero_norm(self: TrainStep) -> torch.Tensor:
    return torch.zeros((), device=self.device)


def take_the_layout(self: TrainStep, terms: Terms, _: MicroBatch) -> None:
    self.shapes = {name: value.shape for name, value in terms.sums.items()}


PARTS: list[tuple[str, Any, str, Callable[..., Any]]] = [
    (RANDOM, loader, "_draw_step", first_of(loader._draw_step)),
    (PLAN, BatchPlan, "global_batch", cycled(BatchPlan.global_batch)),
    (SEEDS, step, "seed_everything", lambda *_: None),
    (NORM, TrainStep, "_clip", zero_norm),
    (STATISTICS, BatchNormStatistics, "read", lambda _: []),
    (STATISTICS, BatchNormStatistics, "update", lambda *_: None),
    (LAYOUT, TrainStep, "_check", take_the_layout),
    (LAYOUT, BatchNormStatistics, "training_mode", lambda _: None),
    (WATCH, Watch, "saw", lambda *_: None),
]
"""Part, where it is, its name there, and what replaces it."""


def switched(off: set[str], part: str, original: Callable[..., Any], instead: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the one or the other."""
    return lambda *args, **named: (instead if part in off else original)(*args, **named)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--model", default="cnn2")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="two short turns")
    options = parser.parse_args()
    options.data = cifar_folder(options.data)
    if options.quick:
        options.turns, options.steps = 2, 8
    print(conditions())
    timings: Timings = {}
    parts, off = {part for part, *_ in PARTS}, set[str]()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for part, owner, name, instead in PARTS:
            stack.enter_context(mock.patch.object(owner, name, switched(off, part, getattr(owner, name), instead)))
        config = loop_config(options.model, Path(folder), options)
        synchronize = torch.cuda.synchronize if options.device == "cuda" else lambda: None

        def begin(side: str) -> None:
            off.clear()
            off.update({ALL: parts, AS_IT_IS: set()}.get(side, {side}))

        sides = dict.fromkeys([AS_IT_IS, *sorted(parts), ALL])
        turns = in_turns(timings, sides, options.turns + 1, options.steps, LEAD_IN, synchronize, begin)
        run_in_turns(config, turns)
    for seconds in timings.values():  # in the first turn, much is done for the first time
        del seconds.wall[0], seconds.cpu[0]
    as_it_is = timings.pop(AS_IT_IS)
    print(f"{options.model}, batch {options.batch}, {options.precision}, {options.threads} threads: ", end="")
    print(f"{1000 * statistics.median(as_it_is.wall):.2f} ms a step, median of {len(as_it_is.wall)} turns\n")
    print(f"{'milliseconds a step, median (quartiles)':56}{'by the clock':>24}{'processor time':>26}")
    for name, seconds in timings.items():
        by_clock, by_cpu = difference(as_it_is.wall, seconds.wall), difference(as_it_is.cpu, seconds.cpu)
        note("promises", f"{options.model}, batch {options.batch}, {options.precision}", name, "ms a step", by_clock)
        columns = ["{:.2f} ({:.2f} to {:.2f})".format(*figures) for figures in (by_clock, by_cpu)]
        print(f"{name:56}{columns[0]:>24}{columns[1]:>26}")


def difference(with_it: list[float], without: list[float]) -> tuple[float, float, float]:
    """The median of the differences within each turn, in milliseconds, and their quartiles."""
    each = [1000 * (one - other) for one, other in zip(with_it, without, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return middle, low, high


if __name__ == "__main__":
    main()
