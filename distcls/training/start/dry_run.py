"""`distcls train --dry-run` and `--print-config`: show what a run would do, and its settings, without doing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.image_transforms import build_transforms
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.build import build_data
from distcls.errors import MissingInputError
from distcls.models.build import build_model
from distcls.models.freezing import frozen_until
from distcls.models.init_from import find_source, init_from
from distcls.models.recomputation import recompute_activations
from distcls.models.trial import try_model
from distcls.optim.build import build_optimizer
from distcls.optim.groups import group_parameters
from distcls.plan.batches import plan_batches
from distcls.runs.resolution import resolve
from distcls.runs.resuming import choose_folder, config_to_keep, steps_of
from distcls.terminal.progress import Progress
from distcls.training.objectives.build import build_objective
from distcls.training.objectives.objective import describe_task
from distcls.training.start.header import check_plan, describe_longer, describe_plan
from distcls.training.start.names import refuse_unknown_names
from distcls.training.start.settling import settle
from distcls.training.state import named_modules

CPU = torch.device("cpu")


def settled(config: Config) -> Config:
    """Return the config with what a first start would choose, by the images, the device and the initial weights.

    It downloads nothing. Raises what opening the images raises.
    """
    with Processes(config.run.device) as processes, _nothing_downloaded(config) as here:
        return config.replaced(processes.from_main(lambda: settle(here, processes.device, may_download=False)))


@contextlib.contextmanager
def _nothing_downloaded(config: Config) -> Iterator[Config]:
    """Give the config without data.download, and say in errors about missing images that they were not fetched."""
    try:
        yield config.replaced({"data.download": False})
    except MissingInputError as missing:
        if config.data.download and "data.download=true" in str(missing):  # other things are missing, too
            raise MissingInputError(
                f"{missing}\nA dry run downloads nothing, even with data.download=true: a run does."
            ) from None
        raise


def dry_run(config: Config, name: str) -> None:
    """Print what `train` would do, as far as that can be known without training. It writes nothing.

    Raises what `train` would raise before its first step.
    """
    with Processes(config.run.device) as processes, _nothing_downloaded(config) as config:
        processes.from_main(lambda: refuse_unknown_names(config))
        folder = processes.from_main(lambda: choose_folder(config, name))
        step, stored = processes.from_main(lambda: (steps_of(config, folder), config_to_keep(folder)))
        config = resolve(config, stored, folder, processes, lambda config: settle(config, processes.device, False))
        data = build_data(config.data, processes, crop=config.augment.random_resized_crop)
        plan = plan_batches(config.train, len(data.train), processes.rank, processes.world_size, data.train.labels)
        check_plan(config, data, plan)
        build_transforms(config.augment.transforms, config.train.seed, data.image_size)
        module = build_model(config.model, len(data.class_names), data.image_size)
        weights: list[tuple[str, str]] = []
        source = find_source(config.model, may_download=False) if not step else None  # checkpoints have their own
        if source is None and config.model.pretrained and not step:
            weights = [("weights", "would be downloaded from the model's library")]
        if source is not None:
            found = init_from(module, source, config.model, data.class_names, data.image_size)
            weights = [("weights", line) for line in found.notes] + [("warning", line) for line in found.warnings]
        normalize = Normalize.build(config.augment.normalize, CPU, torch.float32, config.model.channels_last)
        augment = Augmentation(normalize, len(data.class_names), data.image_size, data.decoding.interpolation)
        task = describe_task(config, data, plan, augment, CPU, torch.float32)
        objective = build_objective(config.objective, task)
        tried = try_model(module, config.model.name, len(data.class_names), data.image_size, objective.classifies)
        frozen_until(config.model, module, len(data.class_names))
        further = named_modules(config.objective, objective, module)
        build_optimizer(group_parameters(config.optim, module, further))
        if config.train.checkpoint_activations:
            recompute_activations(module, config.model.name, data.image_size, tried.moving)
        if processes.is_main:
            described = describe_plan(config, data, plan, module, processes, resumed=step > 0)
            described += weights
            described += describe_longer(config, plan, folder) if step else []
            resumed = f", resuming from step {step:,}" if step else ""
            Progress().header([*described, ("folder", f"{folder}{resumed}")])
