"""Settings that are right each for themselves and wrong together: what contradicts what, and what to type instead.

Nothing here is slow to import: the loader looks for contradictions before torch is imported, and batches.py
asks for those of the batch sizes again when it knows the processes that have really been started.
"""

from __future__ import annotations

from collections.abc import Iterator

from distcls.config.batch_sizes import Problem, default_micro_batch_size, wrong_batches
from distcls.config.durations import parse_duration
from distcls.config.settings import Config, DataConfig, NormalizeConfig, OptimConfig, TrainConfig

NO_LENGTH = "neither train.num_epochs nor train.num_steps is set: give one of them"


def contradictions(config: Config, world_size: int) -> Iterator[Problem]:
    """What is wrong with a config on so many processes. Later problems may follow from the first one."""
    yield from _wrong_data(config.data)
    yield from _wrong_length(config.train)
    yield from wrong_batches(config.train, world_size)
    yield from _wrong_periods(config.train)
    yield from _wrong_schedule(config.optim)
    yield from _wrong_optimizer(config.optim)
    yield from _wrong_colors(config.data)
    yield from _wrong_normalize(config.augment.normalize)
    yield from _wrong_mixing(config, world_size)
    yield from _wrong_weights(config)
    yield from _wrong_crop(config)


def _wrong_data(data: DataConfig) -> Iterator[Problem]:
    if data.args and data.name != "synthetic" and ":" not in data.name:
        yield (
            "data.args",
            f"data.args is for data.name=synthetic and for a factory of yours, but data.name is {data.name}: "
            "remove data.args",
        )
    if data.root is not None and data.name in ("digits", "synthetic"):
        yield (
            "data.root",
            f"data.root={data.root} is not read by data.name={data.name}: add data.name=folder (or csv, npz …), "
            "or leave one of them out",
        )
    if data.folds is not None and data.fold is None:
        yield (
            "data.folds",
            f"data.folds={data.folds} does not say which fold is val: add data.fold=0 (up to {data.folds - 1}) for "
            "one of them, or run all of them: distcls crossval",
        )
    if data.fold is not None and data.folds is None:
        yield "data.fold", f"data.fold={data.fold} is one of how many? Add data.folds, such as data.folds=5"
    elif data.fold is not None and data.folds is not None and data.fold >= data.folds:
        yield "data.fold", f"data.fold={data.fold} must be from 0 to {data.folds - 1}, for data.folds={data.folds}"


def _wrong_length(train: TrainConfig) -> Iterator[Problem]:
    if train.num_steps is not None and train.num_epochs is not None:
        yield (
            "train.num_steps",
            f"train.num_steps={train.num_steps} and train.num_epochs={train.num_epochs:g} are two lengths for one run: "
            "give one of them",
        )
    if train.num_steps is None and train.num_epochs is None:
        yield "train.num_epochs", NO_LENGTH


def _wrong_periods(train: TrainConfig) -> Iterator[Problem]:
    for name in ("log_every", "eval_every", "checkpoint_every"):
        if parse_duration(getattr(train, name)).value == 0:
            yield f"train.{name}", f"train.{name} must be longer than zero: the shortest is '1 step'"


def _wrong_schedule(optim: OptimConfig) -> Iterator[Problem]:
    if optim.schedule == "step" and not optim.milestones:
        yield "optim.schedule", "optim.schedule=step needs milestones, such as optim.milestones=['50%', '75%']"
    if optim.schedule != "step" and optim.milestones:
        yield (
            "optim.milestones",
            f"optim.milestones belongs to optim.schedule=step, but the schedule is {optim.schedule}: "
            "change the schedule or remove the milestones",
        )

    if optim.schedule in ("cosine", "one_cycle") and optim.min_lr > optim.lr:
        yield (
            "optim.min_lr",
            f"optim.min_lr={optim.min_lr:g}, where the learning rate ends, is above optim.lr={optim.lr:g}, its peak: "
            "make it smaller",
        )
    if optim.schedule not in ("cosine", "one_cycle") and optim.min_lr:
        yield (
            "optim.min_lr",
            f"optim.min_lr is for optim.schedule=cosine and one_cycle, but the schedule is {optim.schedule}: "
            "change the schedule or remove optim.min_lr",
        )


def _wrong_optimizer(optim: OptimConfig) -> Iterator[Problem]:
    if optim.nesterov and optim.name != "sgd":
        yield (
            "optim.nesterov",
            f"optim.nesterov is for optim.name=sgd, but the optimizer is {optim.name}: set one of them",
        )
    elif optim.nesterov and optim.momentum == 0:
        yield "optim.nesterov", "optim.nesterov needs optim.momentum above 0, such as optim.momentum=0.9"
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        yield "optim.betas", f"optim.betas must be two numbers from 0 to below 1, but {optim.betas} was given"


def _wrong_colors(data: DataConfig) -> Iterator[Problem]:
    if not _is_color(data.background):
        yield (
            "data.background",
            f"data.background={data.background} is not a colour: "
            'give its name in CSS, such as black, or "#rrggbb" in quotes',
        )
    if data.float_range is not None and (len(data.float_range) != 2 or data.float_range[0] == data.float_range[1]):
        yield (
            "data.float_range",
            f"data.float_range must be two numbers, those of black and white, but {data.float_range} was given",
        )


def _is_color(name: str) -> bool:
    if name == "white":  # the default waits for no import
        return True
    from PIL import ImageColor

    try:
        return len(ImageColor.getrgb(name)) == 3
    except ValueError:
        return False


def _wrong_normalize(normalize: NormalizeConfig) -> Iterator[Problem]:
    for name, numbers in (("mean", normalize.mean), ("std", normalize.std)):
        if len(numbers) != 3:
            yield (
                f"augment.normalize.{name}",
                f"augment.normalize.{name} must be 3 numbers (red, green, blue), but {numbers} was given: "
                "for gray images write the same number 3 times",
            )
    if not all(number > 0 for number in normalize.std):
        yield "augment.normalize.std", f"augment.normalize.std must be above 0, but {normalize.std} was given"


def _wrong_mixing(config: Config, world_size: int) -> Iterator[Problem]:
    micro = config.train.micro_batch_size or default_micro_batch_size(config.train, world_size)
    for name, verb in (("mixup", "mixes"), ("cutmix", "cuts and mixes")):
        if getattr(config.augment, name) and micro == 1:
            yield (
                f"augment.{name}",
                f"augment.{name} {verb} the images of a micro-batch, but a micro-batch is one image here: "
                f"raise train.micro_batch_size (or train.global_batch_size), or set augment.{name}=0",
            )


def _wrong_weights(config: Config) -> Iterator[Problem]:
    weights, sampling = config.loss.class_weights, config.train.sampling
    if config.loss.label_smoothing and ":" in config.loss.name:
        yield (
            "loss.label_smoothing",
            f"loss.label_smoothing is for loss.name=cross_entropy and focal, but the loss is {config.loss.name}: "
            "set one of them, or smooth the targets in your own loss",
        )
    if weights != "none" and ":" in config.loss.name:
        yield (
            "loss.class_weights",
            f"loss.class_weights is for loss.name=cross_entropy and focal, but the loss is {config.loss.name}: "
            "set one of them, or weigh the classes in your own loss",
        )
    if weights in ("balanced", "effective") and sampling != "none":
        yield (
            "loss.class_weights",
            f"loss.class_weights={weights} and train.sampling={sampling} would make up for rare classes twice: "
            "set one of them to none",
        )
    for name, weight in weights.items() if isinstance(weights, dict) else ():
        if weight <= 0:
            yield f"loss.class_weights.{name}", f"loss.class_weights.{name} must be above 0, but {weight:g} was given"


def _wrong_crop(config: Config) -> Iterator[Problem]:
    crop, data = config.augment.random_resized_crop, config.data
    if crop is None:
        return
    for name, numbers in (("scale", crop.scale), ("ratio", crop.ratio)):
        if len(numbers) != 2 or numbers[0] > numbers[1]:
            yield (
                f"augment.random_resized_crop.{name}",
                f"augment.random_resized_crop.{name} must be two numbers, the smaller first, but {numbers} was given",
            )
    if data.decode_size and data.image_size and data.decode_size < data.image_size:
        yield (
            "data.decode_size",
            f"data.decode_size={data.decode_size} is smaller than data.image_size={data.image_size}, so that the model "
            f"would see enlarged pixels: make it {data.image_size} or more, or leave it out",
        )
