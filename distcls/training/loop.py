"""Training, from the config to the finished run: the table of contents of distcls.

A run is a pure function of its config. What a step does depends on (config, step, weights, optimizer
state) and on nothing else, so everything else is computed from the step: the images (plan/batches.py), the random
numbers (plan/randomness.py), the learning rate (optim/schedules.py). gradients.py sums over micro-batches and
processes, and a kill loses only the steps since the last checkpoint (checkpoint.py).

There are no hooks or callbacks: the code runs in the order you read it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from distcls.cluster.kernels import chosen_kernels
from distcls.config.durations import is_due
from distcls.config.settings import Config
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.build import build_data
from distcls.data.loading.loader import train_batches
from distcls.errors import Preempted
from distcls.inference.classifier import Classifier
from distcls.inference.evaluator import Evaluator
from distcls.inference.identity import check_and_describe_data
from distcls.optim.build import momenta_per_weight
from distcls.plan.batches import plan_batches
from distcls.runs.folder import RunFolder
from distcls.runs.tracking.trackers import Tracker
from distcls.runs.waiting import joined
from distcls.training.acceleration import Acceleration
from distcls.training.checkpoint import Checkpoints
from distcls.training.failures import ending_told
from distcls.training.features import with_features
from distcls.training.finish import finish
from distcls.training.objectives.build import build_objective
from distcls.training.objectives.objective import describe_task
from distcls.training.start.header import check_plan, describe, describe_longer
from distcls.training.start.names import refuse_unknown_names
from distcls.training.start.settling import settle
from distcls.training.state import build_state
from distcls.training.step import TrainStep
from distcls.training.watch import Watch


class Finished(NamedTuple):
    """A finished run."""

    dir: Path
    is_main: bool
    """True on the one process of the run that writes."""
    tracker: Tracker | None
    """Closed; it says when the services have all of the run. None on the other processes."""


def train(config: Config, default_name: str) -> Finished:
    """Train to the end, or resume from the newest checkpoint.

    default_name: the run's name, if the config gives none. Raises Preempted after a stop signal (everything is saved),
    and the other errors of errors.py.
    """
    check = partial(refuse_unknown_names, config)
    with (
        joined(config, default_name, check) as processes,
        chosen_kernels(config.train, processes),
        RunFolder(config, processes, default_name, check, lambda config: settle(config, processes.device)) as run,
        Checkpoints(run, run.config.train) as checkpoints,
        ending_told(run),
    ):
        config = run.config
        acceleration = Acceleration(config.train, processes.device)
        device, dtype = acceleration.device, acceleration.dtype
        crop = config.augment.random_resized_crop
        data = build_data(config.data, processes, run.counting("decoding images"), crop)
        processes.from_main(lambda: check_and_describe_data(data, config.augment.normalize, run))
        plan = plan_batches(config.train, len(data.train), processes.rank, processes.world_size, data.train.labels)
        check_plan(config, data, plan)
        normalize = Normalize.build(config.augment.normalize, device, dtype, config.model.channels_last)
        augment = Augmentation(normalize, len(data.class_names), data.image_size, data.decoding.interpolation)
        newest = checkpoints.newest()
        objective = build_objective(config.objective, describe_task(config, data, plan, augment, device, dtype))
        state = build_state(config, data, objective, acceleration, run, with_init_from=newest is None)
        train_step = TrainStep(config, objective, state, plan, acceleration)
        evaluate = Evaluator(config, processes)
        if processes.is_main:
            described = describe(config, data, plan, state.module, processes, resumed=newest is not None)
            run.progress.header([*described, *describe_longer(config, plan, run.dir), ("folder", str(run.dir))])
        checkpoints.restore(newest, state)
        if config.model.head_only:
            classifier = Classifier(state.module, config, data.class_names, data.decoding)
            seen = with_features(data, classifier, config, processes, run.counting("computing features"))
        else:
            seen = data
        checkpoints.check_space(state, momenta_per_weight(config.optim))
        watch = Watch(config, state, plan, data.train, run)
        run.begin()

        batches = train_batches(seen.train, plan, config.augment, device, config.data.workers, state.step)
        while True:
            stopping = processes.asked_to_stop()
            due = is_due(state.step, config.train.eval_every, plan) and not state.is_evaluated
            if seen.val and due and not stopping:  # an evaluation skipped here is done first on resume
                watch.catch_up("evaluate")
                classifier = Classifier(state.eval_module, config, data.class_names, data.decoding)
                metrics = evaluate(classifier, seen.val)
                stopping = metrics is None
                if metrics is not None:
                    if state.record(metrics.values, config.train.best_metric):
                        checkpoints.save_best(state)
                    watch.tell(metrics)
            stopped_early = state.has_stopped_early(config.train.early_stopping)
            finished = state.step == plan.total_steps or stopped_early
            if is_due(state.step, config.train.checkpoint_every, plan) or stopping or finished:
                watch.catch_up("save")
                state.refuse_drift(processes)
                checkpoints.save(state, ended=finished)
            checkpoints.raise_errors(wait=stopping or finished)
            if stopping:
                raise Preempted(f"stopped at step {state.step}. Run the same command to resume.")
            if stopped_early:
                run.finish_because(state.why_stopped_early(config.train.best_metric))
            if finished:
                break
            micro_batches = watch.wait_for(batches)
            watch.saw(train_step(micro_batches), train_step.names)

        finish(state, data, seen, plan, augment, evaluate, checkpoints, run)
    return Finished(run.dir, processes.is_main, run.tracker)
