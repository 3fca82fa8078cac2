"""Writes the config of the best trial, with which `distcls train` trains it again."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FrozenTrial

from distcls.config.yaml_text import given_as_yaml
from distcls.files.atomic import naming_disk_errors, write_text
from distcls.runs.resuming import stored_config
from distcls.runs.status import now
from distcls.sweeps.search.plan import Plan
from distcls.sweeps.search.results import values_text
from distcls.sweeps.search.space import text_of

FILE = "best.yaml"


def write_best(plan: Plan, trial: FrozenTrial) -> Path | None:
    """Write best.yaml: what was given in the config, the sweep and the trial. None if the trial's folder is gone.

    Raises DiskError.
    """
    run_dir = plan.run_dirs(trial.number, trial.params)[0]
    config = stored_config(run_dir)
    if config is None:
        return None
    path = plan.folder / FILE
    config = config.replaced({"run.dir": None, "run.name": None})
    kept = [one for one in config.given if not one.startswith("run.")]
    if "train.num_threads" in kept and plan.num_threads is not None and not plan.space.searches("train.num_threads"):
        kept.remove("train.num_threads")  # the sweep set it so that trials share the machine; a lone run has all of it
    if config.preset != "none":
        kept.append("preset")
    with naming_disk_errors(path):
        write_text(path, _header(plan, trial, path) + given_as_yaml(config.noting(kept)))
    return path


def _header(plan: Plan, trial: FrozenTrial, path: Path) -> str:
    measured = values_text(plan, trial, f" over {plan.num_seeds} seeds")
    point = " ".join(f"{name}={text_of(value)}" for name, value in trial.params.items())
    lines = [
        f"The best of the sweep {plan.folder}, {now()}: trial {trial.number}, {point}",
        "",
        f"  distcls train -c {path}",
        "",
        f"Measured: {measured}. The best of many is partly luck: its test accuracy may be lower.",
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
