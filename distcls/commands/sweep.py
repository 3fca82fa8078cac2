"""`distcls sweep`: searches for good settings by training many runs."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from distcls.cluster import signals
from distcls.cluster.cpu import available_cpus
from distcls.commands.arguments import SETTINGS, Parser, add_config_file, parse_train_arguments
from distcls.commands.job_options import add_job_options, check_job_options, whole_number
from distcls.config.loading import world_size
from distcls.config.metrics import BEST_METRICS
from distcls.config.settings import PRESETS, Config
from distcls.errors import MissingInputError, UsageError
from distcls.runs.resuming import default_name, lock_folder
from distcls.sweeps.search.checking import check_values
from distcls.sweeps.search.plan import COSTS, Limits, Plan, Read, configs_of_variants, first_config, settle
from distcls.sweeps.search.space import Space, read_space

SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

DEFAULT_TRIALS = 20
"""Of a search that has no end of its own."""


def main(argv: Sequence[str]) -> int:
    """Run a sweep, or resume it, and show what it found."""
    signals.install()
    options = _parser().parse_intermixed_args(argv)
    if importlib.util.find_spec("optuna") is None:
        raise MissingInputError("distcls sweep needs optuna: pip install 'distcls[tune]'")
    space, fixed = read_space(options.space, options.settings)
    read = _read
    if _is_for_slurm(options):
        check_job_options(options)
        read = partial(_read_for_job, options)
        if shutil.which("sbatch") is None:
            raise MissingInputError("sbatch is not on the PATH: start the sweep on a machine with Slurm's commands")
    elif world_size() > 1:
        raise UsageError(
            "distcls sweep starts its trials itself, each as one process: start it without torchrun or another "
            "launcher, or unset WORLD_SIZE"
        )
    plan = _plan(options, space, fixed, read)
    check_values(plan, read)
    with lock_folder(plan.folder) or nullcontext():
        return _run(plan, read, options)


def _read(words: Sequence[str]) -> Config:
    return parse_train_arguments(words)[0]


def _read_for_job(options: argparse.Namespace, words: Sequence[str]) -> Config:
    """Return the config for the processes of a job."""
    from submitit.core.utils import environment_variables

    with environment_variables(WORLD_SIZE=options.nodes * options.tasks_per_node):
        return _read(words)


def _is_for_slurm(options: argparse.Namespace) -> bool:
    """True if trials are jobs. Raises UsageError for options that only jobs have."""
    if options.cpu or options.gpus_per_node:
        return True
    names = ["time", "job_dir", "partition", "tasks_per_node", "cpus_per_task", "signal_delay", "container", "slurm"]
    given = [*(["nodes"] if options.nodes > 1 else []), *(name for name in names if getattr(options, name))]
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for jobs of Slurm: add --gpus-per-node G or --cpu")
    return False


def _submit(options: argparse.Namespace, name: str, runs: Any) -> Any:
    """Submit runs as one array of jobs with this name."""
    from distcls.commands.slurm_job import PlannedRun, build_executor, submit_words
    from distcls.sweeps.search.slurm_runs import Submitted

    for run in runs:  # a container mounts them
        run.dir.mkdir(parents=True, exist_ok=True)
    executor = build_executor(options, [PlannedRun(run.dir.absolute(), run.config) for run in runs])
    executor.update_parameters(job_name=name)
    device = f"run.device={'cpu' if options.cpu else 'cuda'}"
    jobs = submit_words(executor, [[*run.words, device] for run in runs], Path(options.job_dir))
    return [Submitted(job.job_id, str(job.paths.stdout)) for job in jobs]


def _run(plan: Plan, read: Read, options: argparse.Namespace) -> int:
    runs_here = not _is_for_slurm(options)
    plan = settle(plan, read, _threads(plan, read, options.parallel) if runs_here else None)
    from distcls.sweeps.search.local_runs import LocalRuns
    from distcls.sweeps.search.reporter import Reporter
    from distcls.sweeps.search.slurm_runs import SlurmRuns
    from distcls.sweeps.search.study import Study
    from distcls.sweeps.search.sweep import Sweep, remove_pruned

    study, reporter = Study(plan), Reporter(plan)
    reporter.header(study)
    if runs_here:
        runs = LocalRuns(plan.folder, options.parallel)
    else:
        runs = SlurmRuns(plan.folder, options.parallel, partial(_submit, options))
    try:
        Sweep(plan, study, runs, read, reporter).run()
    finally:
        _show(plan, study, reporter)
    if options.prune_folders:
        reporter.say(f"removed the folders of {remove_pruned(plan, study)} pruned runs")
    return 0


def _show(plan: Plan, study: Any, reporter: Any) -> None:
    """Print the table, and write the page and the best config, of what there is so far."""
    from distcls.sweeps.search.best import write_best
    from distcls.sweeps.search.page import write_sweep_page

    if not study.trials():
        return
    reporter.table(study)
    best = study.best()
    config = write_best(plan, best[0]) if best else None
    folder = shlex.quote(str(plan.folder))
    commands = [(f"distcls compare {folder}", "shows the runs side by side")]
    if config is not None:
        commands.insert(0, (f"distcls train -c {shlex.quote(str(config))}", "trains the best trial again"))
    page = write_sweep_page(study, plan, commands)
    reporter.say(f"\npage    {page}")
    for title, (command, _) in zip(("next", ""), commands, strict=False):
        reporter.say(f"{title:<8}{command}")


def _threads(plan: Plan, read: Read, parallel: int) -> int | None:
    """Return the CPU threads for each of several trials at once; None to leave it to the trials."""
    if parallel == 1:
        return None
    configs = configs_of_variants(plan, read)
    is_given = any(config is not None and config.train.num_threads is not None for config in configs)
    return None if is_given else max(available_cpus() // parallel, 1)


def _plan(options: argparse.Namespace, space: Space, fixed: Sequence[str], read: Read) -> Plan:
    for word in fixed:
        if word.startswith(("run.dir=", "run.name=")):
            raise UsageError(f"{word}: each trial has a folder of its own; --name NAME names the sweep")
    words = [
        *([f"--data={options.data}"] if options.data is not None else []),
        *([f"--preset={options.preset}"] if options.preset else []),
    ]
    words += fixed
    shared = [*(["-c", str(options.config)] if options.config else []), *words]
    with_values = ([*shared, *space.settings(point)] for point in space.points_with({}))
    config = first_config(read, [shared, *with_values]) or read(shared)  # which says what is wrong
    search = options.search or ("grid" if space.is_listed() else "tpe")
    if search == "grid":
        next(space.grid())  # refuses ranges
    metric = options.metric or config.train.best_metric
    also = tuple(dict.fromkeys(options.also))
    if options.pruner and also:
        raise UsageError(
            f"--pruner {options.pruner}: trials can only be pruned by one number; leave out --also {also[0]}"
        )
    if options.seeds > 1 and space.searches("train.seed"):
        raise UsageError("train.seed is searched, and --seeds sets it too: leave one of them out")
    if options.name is not None and not re.fullmatch(r"[^/\s][^/]*", options.name):
        raise UsageError(f"--name {options.name}: give a name for a folder in sweeps/, without slashes")
    name = options.name or (options.space.stem if options.space else default_name(config, options.config))
    return Plan(
        folder=Path("sweeps") / name,
        space=space,
        config_file=options.config,
        options=tuple(words),
        search=search,
        num_trials=options.trials or (None if search == "grid" else DEFAULT_TRIALS),
        num_seeds=options.seeds,
        first_seed=config.train.seed,
        metric=metric,
        also=also,
        limits=Limits(options.max_params, options.max_flops, options.max_latency),
        pruner=options.pruner,
        search_seed=options.search_seed,
    )


def _parser() -> Parser:
    parser = Parser(
        prog="distcls sweep",
        usage="distcls sweep [-c FILE] [--space FILE] [options] [SETTING=V1,V2,… | SETTING=LOW..HIGH[@log] …] "
        "[key=value ...]",
        description="Search for good settings: train many runs, each in a folder of its own in sweeps/NAME, and show "
        "the best. If it is stopped or killed, run the same command to resume. Needs pip install 'distcls[tune]'.",
        epilog="Search a list of values, augment.mixup=0,0.2, or a range, optim.lr=1e-4..1e-2@log or "
        "model.args.width=8..64@step=8. Any other key=value is a setting that all trials share.",
    )
    add_config_file(parser, "YAML file with settings that trials share")
    parser.add_argument("--data", metavar="DIR", help="folder of images, as for distcls train")
    parser.add_argument("--preset", choices=("none", *PRESETS), help="recipe, as for distcls train")
    parser.add_argument(
        "--name", help="name of the sweep; its folder is sweeps/NAME (default: from --space or the config)"
    )
    parser.add_argument("--space", type=Path, metavar="FILE", help="YAML file with values, ranges and named variants")
    parser.add_argument(
        "--search",
        choices=("grid", "random", "tpe"),
        help="default: grid if all values are listed, else tpe (Optuna's)",
    )
    parser.add_argument(
        "--trials", type=whole_number, metavar="N", help=f"how many (default: all of a grid, else {DEFAULT_TRIALS})"
    )
    parser.add_argument(
        "--seeds",
        type=whole_number,
        default=1,
        metavar="N",
        help="train each trial with N seeds, and average the results",
    )
    parser.add_argument(
        "--search-seed", type=int, default=0, metavar="N", help="seed of the search itself (default: 0)"
    )
    parser.add_argument(
        "--metric", choices=BEST_METRICS, metavar="NAME", help="val metric to optimize (default: train.best_metric)"
    )
    parser.add_argument(
        "--also", action="append", default=[], choices=list(COSTS), help="a cost to keep low as well; may be repeated"
    )
    parser.add_argument("--max-params", type=_size, metavar="N", help="no networks with more parameters, such as 200k")
    parser.add_argument(
        "--max-flops", type=_size, metavar="N", help="none that take more FLOPs for an image, such as 50M"
    )
    parser.add_argument(
        "--max-latency", type=_milliseconds, metavar="MS", help="none that take longer for one image here"
    )
    parser.add_argument(
        "--pruner",
        choices=("median", "hyperband"),
        help="end a trial early if it does worse than others did at the same point",
    )
    parser.add_argument("--parallel", type=whole_number, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument(
        "--prune-folders", action="store_true", help="remove the run folders of pruned trials when all have ended"
    )
    jobs = parser.add_argument_group("training as jobs of Slurm", "as in distcls submit; --parallel jobs at once")
    add_job_options(jobs, required=False)
    parser.add_argument("settings", nargs="*", metavar=SETTINGS, help="what to search, and settings that trials share")
    return parser


def _size(text: str) -> int:
    """Return a number such as 200k, 1.5M or 200000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", text.lower())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: write 200000, 200k or 1.5M")
    return round(float(match[1]) * SUFFIXES[match[2]])


def _milliseconds(text: str) -> float:
    """Return seconds from a number of milliseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:ms)?", text)
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds, such as 2.5")
    return float(match[1]) / 1000
