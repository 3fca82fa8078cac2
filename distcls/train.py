"""Training, from the config to the finished run: the table of contents of distcls.

A run is a pure function of its config. What a step does depends on (config, step, weights, optimizer
state) and on nothing else, so everything but those is computed from the step: the images (batches.py),
the random numbers (randomness.py), the learning rate (optim/schedules.py). Sums over micro-batches and
processes are taken in gradients.py, and a checkpoint (checkpoint.py) is all that a kill can lose.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from distcls.cli import run_command
from distcls.cluster import signals, slurm
from distcls.commands.arguments import parse_train_arguments
from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.errors import Preempted
from distcls.runs.folder import choose_folder, config_to_keep, default_name, steps_of


def main(argv: Sequence[str] | None = None) -> int:
    """`distcls train`, `python -m distcls.train`, and what accelerate launch, torchrun and Slurm start."""
    signals.install(second_leaves=not slurm.comes_back())
    # DDP warns at each start that it looks for unused parameters, which is wanted (see run.py).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return slurm.leave(run_command(_main, sys.argv[1:] if argv is None else argv))


def _main(argv: Sequence[str]) -> int:
    slurm.join_step()
    config, options = parse_train_arguments(argv)
    if options.print_config:
        print(to_yaml(config), end="")
    elif options.dry_run:
        dry_run(config, default_name(config, options.config_path))
    else:
        train(config, default_name(config, options.config_path))
    return 0


def train(config: Config, name: str) -> Path:
    """Train to the end, or go on from the newest checkpoint; the run folder.

    Raises Preempted after a stop signal (everything is saved), and the other errors of errors.py. The
    imports are here because torch takes seconds, and a mistake in the config is found before. name: of the
    run, if the config gives none.
    """
    from distcls.cluster.processes import Processes
    from distcls.commands.evaluate import Evaluator
    from distcls.config.durations import is_due
    from distcls.data.augmentation.batchwise import Augmentation
    from distcls.data.augmentation.preprocessing import Normalize
    from distcls.data.build import build_data
    from distcls.data.loading.loader import train_batches
    from distcls.optim import momenta_per_weight
    from distcls.optim.losses import weigh_classes
    from distcls.plan.batches import plan_batches
    from distcls.training.checkpoint import Checkpoints
    from distcls.training.header import check_plan, describe
    from distcls.training.run import Run
    from distcls.training.state import build_state
    from distcls.training.step import TrainStep
    from distcls.training.watch import Watch

    processes = Processes(config.run.device, config.run.hang_timeout)
    with Run(config, processes, name) as run:
        config = run.config
        crop = config.augment.random_resized_crop
        data = build_data(config.data, processes, run.counting("decoding images"), crop)
        run.adopt_data(data)
        plan = plan_batches(config.train, len(data.train), processes.rank, processes.world_size, data.train.labels)
        check_plan(config, data, plan)
        normalize = Normalize.build(config.augment.normalize, run.device, run.dtype, config.model.channels_last)
        augment = Augmentation(normalize, len(data.class_names), data.image_size)
        checkpoints = Checkpoints(run, config.train)
        newest = checkpoints.newest()
        state = build_state(config, data.class_names, data.image_size, run, with_init_from=newest is None)
        class_weights = weigh_classes(config.loss, data.train.labels, data.class_names)
        train_step = TrainStep(config, state, plan, augment, run, class_weights)
        evaluate = Evaluator(config, len(data.class_names), normalize, processes)
        run.progress.header([*describe(config, data, plan, state.module, processes), ("folder", str(run.dir))])
        checkpoints.restore(newest, state)
        checkpoints.check_space(state, momenta_per_weight(config.optim))
        watch = Watch(config, state, plan, data.train, run)
        run.begin()

        batches = train_batches(data.train, plan, config.augment, run.device, config.data.workers, state.step)
        while True:
            stopping = processes.asked_to_stop()
            due = is_due(state.step, config.train.eval_every, plan) and not state.is_evaluated
            if data.val and due and not stopping:  # what is left out here comes first when the run goes on
                watch.catch_up("evaluate")
                metrics = evaluate(state.eval_module, data.val)
                stopping = metrics is None
                if metrics is not None:
                    if state.record(metrics.values, config.train.best_metric):
                        checkpoints.save_best(state)
                    watch.tell(metrics)
            stopped_early = state.has_stopped_early(config.train.early_stopping)
            finished = state.step == plan.total_steps or stopped_early
            if is_due(state.step, config.train.checkpoint_every, plan) or stopping or finished:
                watch.catch_up("save")
                checkpoints.save(state, ended=finished)
            checkpoints.raise_errors(wait=stopping or finished)
            if stopping:
                raise Preempted(f"stopped at step {state.step}: the same command goes on from there.")
            if stopped_early:
                run.finish_because(state.why_stopped_early(config.train.best_metric))
            if finished:
                break
            micro_batches = watch.wait_for(batches)
            watch.saw(train_step(micro_batches))

        from distcls.report.finish import finish

        finish(state, data, plan, augment, evaluate, checkpoints, run)
        return run.dir


def dry_run(config: Config, name: str) -> None:
    """Print what `train` would do, as far as it can be known without training. It writes nothing."""
    import dataclasses

    from distcls.cluster.processes import Processes
    from distcls.data.augmentation.image_transforms import build_transforms
    from distcls.data.build import build_data
    from distcls.models import build_model
    from distcls.optim import build_optimizer
    from distcls.plan.batches import plan_batches
    from distcls.terminal.progress import Progress
    from distcls.training.header import check_plan, describe_plan
    from distcls.training.run import resolve

    with Processes(config.run.device) as processes:
        folder = processes.from_main(lambda: choose_folder(config, name))
        step, stored = processes.from_main(lambda: (steps_of(config, folder), config_to_keep(folder)))
        config = resolve(config, stored, folder, processes)
        data = build_data(config.data, processes, crop=config.augment.random_resized_crop)
        plan = plan_batches(config.train, len(data.train), processes.rank, processes.world_size, data.train.labels)
        check_plan(config, data, plan)
        build_transforms(config.augment.transforms, config.train.seed, data.image_size)
        module = build_model(dataclasses.replace(config.model, init_from=None), len(data.class_names), data.image_size)
        build_optimizer(config.optim, module)
        if processes.is_main:
            goes_on = f", going on from step {step:,}" if step else ""
            described = describe_plan(config, data, plan, module, processes)
            Progress().header([*described, ("folder", f"{folder}{goes_on}")])


if __name__ == "__main__":
    sys.exit(main())
