"""`distcls train --dry-run`: what would happen, before anything does."""

from __future__ import annotations

import dataclasses

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.data.augmentation.image_transforms import build_transforms
from distcls.data.build import build_data
from distcls.models.build import build_model
from distcls.models.trial import try_model
from distcls.optim.build import build_optimizer
from distcls.optim.groups import group_parameters
from distcls.plan.batches import plan_batches
from distcls.runs.resolution import resolve
from distcls.runs.resuming import choose_folder, config_to_keep, steps_of
from distcls.terminal.progress import Progress
from distcls.training.header import check_plan, describe_plan


def dry_run(config: Config, name: str) -> None:
    """Print what `train` would do, as far as it can be known without training. It writes nothing."""
    with Processes(config.run.device) as processes:
        folder = processes.from_main(lambda: choose_folder(config, name))
        step, stored = processes.from_main(lambda: (steps_of(config, folder), config_to_keep(folder)))
        config = resolve(config, stored, folder, processes)
        data = build_data(config.data, processes, crop=config.augment.random_resized_crop)
        plan = plan_batches(config.train, len(data.train), processes.rank, processes.world_size, data.train.labels)
        check_plan(config, data, plan)
        build_transforms(config.augment.transforms, config.train.seed, data.image_size)
        module = build_model(dataclasses.replace(config.model, init_from=None), len(data.class_names), data.image_size)
        is_supervised = config.objective.name == "supervised"
        try_model(module, config.model.name, len(data.class_names), data.image_size, as_classifier=is_supervised)
        build_optimizer(group_parameters(config.optim, module))
        if processes.is_main:
            goes_on = f", going on from step {step:,}" if step else ""
            described = describe_plan(config, data, plan, module, processes)
            Progress().header([*described, ("folder", f"{folder}{goes_on}")])
