"""Keeps what a sweep was asked for, all that decides its results, in sweep.json: it may not change on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distcls.config.differences import differences
from distcls.config.metrics import METRICS
from distcls.config.settings import Config
from distcls.config.yaml_text import shown
from distcls.errors import UsageError
from distcls.files.atomic import naming_disk_errors, write_json
from distcls.runs.status import read_object
from distcls.sweeps.search.space import VARIANT, Point, Space

FILE = "sweep.json"
CONFIGS = "configs"
"""Folder with copies of the config files, so that an edit of one does not change trials to come."""

COSTS = {"parameters": "parameters", "flops": "FLOPs", "latency": "latency"}
"""What else a trial may be judged by, and what to call it: always the smaller, the better."""

Read = Callable[[Sequence[str]], Config]
"""Returns the config of these arguments of `distcls train`, or raises UsageError."""


@dataclass(frozen=True)
class Limits:
    """The most that a network may have or take; None: no limit."""

    parameters: int | None = None
    flops: int | None = None
    latency: float | None = None
    """Seconds for one image."""

    def given(self) -> dict[str, float]:
        """Return the limits that there are, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Plan:
    """A sweep: where it is, what it searches, how, and what is best."""

    folder: Path
    space: Space
    config_file: Path | None
    options: tuple[str, ...]
    """Arguments of `distcls train` that all trials share."""
    search: Literal["grid", "random", "tpe"]
    num_trials: int | None
    """None: all points of a grid."""
    num_seeds: int
    first_seed: int
    metric: str
    also: tuple[str, ...]
    limits: Limits
    pruner: Literal["median", "hyperband"] | None
    search_seed: int
    num_threads: int | None = None
    """Threads per trial, if the sweep sets them because it trains several at once."""

    @property
    def better(self) -> list[Literal["higher", "lower"]]:
        """Return which values are better, for the metric and each cost."""
        return [METRICS[self.metric].better or "higher", *("lower" for _ in self.also)]

    def name_of(self, number: int, point: Point) -> str:
        """Return the name of a trial: that of its variant, if variants are all there is."""
        return str(point[VARIANT]) if list(point) == [VARIANT] else f"trial-{number:04d}"

    def run_dirs(self, number: int, point: Point) -> list[Path]:
        """Return the run folders of a trial, one for each seed."""
        name = self.name_of(number, point)
        if self.num_seeds == 1:
            return [self.folder / name]
        return [self.folder / f"{name}-seed{seed}" for seed in self.seeds]

    @property
    def seeds(self) -> list[int]:
        """Return the seeds that every trial is trained with."""
        return list(range(self.first_seed, self.first_seed + self.num_seeds))

    def words(self, point: Point, seed: int | None = None, run_dir: Path | None = None) -> list[str]:
        """Return the arguments of `distcls train` for a point."""
        config = self.space.config_file(point) or self.config_file
        words = [*(["-c", str(config)] if config else []), *self.options]
        words += [] if self.num_threads is None else [f"train.num_threads={self.num_threads}"]
        words += self.space.settings(point)
        words += [] if seed is None else [f"train.seed={seed}"]
        return words if run_dir is None else [*words, f"run.dir={json.dumps(str(run_dir), ensure_ascii=False)}"]

    def described(self) -> dict[str, Any]:
        """Return what must not change while the sweep is under way, as plain values."""
        return {
            "space": self.space.described(),
            "settings": list(self.options),
            "search": self.search,
            "search_seed": self.search_seed,
            "seeds": self.seeds,
            "metric": self.metric,
            "also": list(self.also),
            "limits": self.limits.given(),
            "pruner": self.pruner,
        }


def settle(plan: Plan, read: Read, num_threads: int | None) -> Plan:
    """Return the plan as the sweep's first start made it: on copies of its config files, and with its threads.

    num_threads: for each trial of a new sweep, if not None. The number may change results a little, so a sweep keeps
    it. Raises UsageError if the folder has a sweep that was asked for something else.
    """
    stored = read_object(plan.folder / FILE)
    settled = _on_copies(plan)
    if not stored:
        with naming_disk_errors(plan.folder / FILE):
            for original, copy in _files(plan).items():
                (plan.folder / CONFIGS).mkdir(exist_ok=True)
                shutil.copyfile(original, plan.folder / CONFIGS / copy)
            write_json(plan.folder / FILE, {**plan.described(), "num_threads": num_threads})
        return dataclasses.replace(settled, num_threads=num_threads)
    changed = [
        f"{key}: {shown(stored.get(key))} -> {shown(value)}"
        for key, value in json.loads(json.dumps(plan.described())).items()
        if stored.get(key) != value
    ]
    changed = changed or _changed_configs(plan, settled, read)
    if changed:
        lines = "\n  ".join(changed)
        raise UsageError(
            f"{plan.folder} holds a sweep with different settings:\n  {lines}\nWhen a sweep is resumed, "
            "only --trials and --parallel may change. Undo the change, or start another sweep with --name NAME."
        )
    return dataclasses.replace(settled, num_threads=stored.get("num_threads"))


def _files(plan: Plan) -> Mapping[Path, str]:
    """Return the config files of the plan, and what their copies are called."""
    files = {} if plan.config_file is None else {plan.config_file: "base.yaml"}
    for name, variant in plan.space.variants.items():
        if variant.config is not None:
            files.setdefault(variant.config, f"variant-{name}.yaml")
    return files


def _on_copies(plan: Plan) -> Plan:
    copies = {original: plan.folder / CONFIGS / copy for original, copy in _files(plan).items()}
    variants = {
        name: dataclasses.replace(variant, config=None if variant.config is None else copies[variant.config])
        for name, variant in plan.space.variants.items()
    }
    space = dataclasses.replace(plan.space, variants=variants)
    config_file = None if plan.config_file is None else copies[plan.config_file]
    return dataclasses.replace(plan, space=space, config_file=config_file)


def _changed_configs(plan: Plan, settled: Plan, read: Read) -> list[str]:
    """Return the settings that differ between the config files and their copies."""
    both = zip(configs_of_variants(settled, read), configs_of_variants(plan, read), strict=True)
    found = [str(one) for before, after in both if before and after for one in differences(before, after)]
    return list(dict.fromkeys(found))


def configs_of_variants(plan: Plan, read: Read) -> list[Config | None]:
    """Return the config of a trial of each variant, or of one trial if there are none. See first_config."""
    fixed: list[Point] = [{VARIANT: name} for name in plan.space.variants] or [{}]
    return [first_config(read, map(plan.words, plan.space.points_with(one))) for one in fixed]


def first_config(read: Read, all_words: Iterable[Sequence[str]]) -> Config | None:
    """Return the config of the first of these arguments that fit together; None if none do."""
    for words in all_words:
        with contextlib.suppress(UsageError):
            return read(words)
    return None
