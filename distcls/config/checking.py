"""Settings that are right each for themselves and wrong together: what contradicts what, and what to type instead.

Nothing here is slow to import: the loader looks for contradictions before torch is imported, and batches.py
asks for those of the batch sizes again when it knows the processes that have really been started.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distcls.config.durations import parse_duration
from distcls.config.settings import Config, DataConfig, NormalizeConfig, OptimConfig, TrainConfig

Problem = tuple[str, str]
"""The setting that is the first to look at, and the message."""

NO_LENGTH = "neither train.num_epochs nor train.num_steps is set: give one of them"


def contradictions(config: Config, world_size: int) -> Iterator[Problem]:
    """What is wrong with a config on so many processes. Later problems may follow from the first one."""
    yield from _wrong_data(config.data)
    yield from _wrong_length(config.train)
    yield from wrong_batches(config.train, world_size)
    yield from _wrong_periods(config.train)
    yield from _wrong_schedule(config.optim)
    yield from _wrong_optimizer(config.optim)
    yield from _wrong_groups(config.optim)
    yield from _wrong_args(config)
    yield from _wrong_colors(config.data)
    yield from _wrong_normalize(config.augment.normalize)
    yield from _wrong_mixing(config, world_size)
    yield from _wrong_weights(config)
    yield from _wrong_crop(config)


def wrong_batches(train: TrainConfig, world_size: int) -> Iterator[Problem]:
    """What keeps a global batch from being cut into equal parts for so many processes, and summed in one order."""
    yield from _wrong_cut(train, world_size)
    yield from _wrong_determinism(train, world_size)


def either(options: Iterable[object]) -> str:
    """ "1", "1 or 2", "1, 2 or 3"."""
    words = [str(option) for option in options]
    return " or ".join(([", ".join(words[:-1])] if words[:-1] else []) + words[-1:])


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


def _wrong_cut(train: TrainConfig, world_size: int) -> Iterator[Problem]:
    batch, micro = train.global_batch_size, train.micro_batch_size
    if batch % ((micro or 1) * world_size) == 0:
        return
    parts = f"micro-batches of train.micro_batch_size={micro}" if micro else "equal parts"
    processes = f" for {world_size} processes (WORLD_SIZE)" if world_size > 1 else ""
    ways = "; ".join(_ways_that_fit(batch, micro, world_size))
    yield (
        "train.micro_batch_size" if micro else "train.global_batch_size",
        f"train.global_batch_size={batch} cannot be cut into {parts}{processes}: try {ways}",
    )


def _ways_that_fit(batch: int, micro: int | None, world_size: int) -> Iterator[str]:
    """The nearest micro-batch sizes, batch sizes and numbers of processes that would work."""
    if micro and batch % world_size == 0:
        yield f"train.micro_batch_size={either(_nearest_divisors(batch // world_size, micro))}"
    unit = (micro or 1) * world_size
    sizes = [size for size in (batch // unit * unit, (batch // unit + 1) * unit) if size]
    yield f"train.global_batch_size={either(sizes)}"
    if world_size > 1 and batch % (micro or 1) == 0:
        yield f"{either(_nearest_divisors(batch // (micro or 1), world_size))} processes"


def _nearest_divisors(number: int, target: int) -> list[int]:
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    smaller = [divisor for divisor in divisors if divisor < target]
    larger = [divisor for divisor in divisors if divisor > target]
    return smaller[-1:] + larger[:1]


def _wrong_determinism(train: TrainConfig, world_size: int) -> Iterator[Problem]:
    if not train.deterministic:
        return
    if train.sync_batchnorm:
        yield (
            "train.sync_batchnorm",
            "train.sync_batchnorm depends on the number of processes, which train.deterministic rules out: "
            "set one of them to false",
        )
    if world_size & (world_size - 1):
        parts = train.global_batch_size // (train.micro_batch_size or 1)
        fitting = [2**power for power in range(parts.bit_length()) if parts % 2**power == 0]
        yield (
            "train.deterministic",
            f"train.deterministic needs a power of two as the number of processes, but WORLD_SIZE is {world_size}: "
            f"start {either(fitting)}, or set train.deterministic=false",
        )


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


def _wrong_groups(optim: OptimConfig) -> Iterator[Problem]:
    for group in optim.groups:
        effective, for_group = optim.for_group(group), f" (the group that matches {group.match!r})"
        for _, problem in (*_wrong_schedule(effective), *_wrong_optimizer(effective)):
            yield "optim.groups", problem + for_group
        kinds = {"momentum": ("sgd",), "betas": ("adam", "adamw"), "eps": ("adam", "adamw")}
        for name, users in kinds.items():
            if getattr(group, name) is not None and effective.name not in users:
                yield (
                    "optim.groups",
                    f"{name} is for {either(users)}, but the optimizer is {effective.name}{for_group}: "
                    f"remove {name}" + (", or give it in args" if ":" in effective.name else ""),
                )
        if effective.args and ":" not in effective.name:
            yield "optim.groups", f"args are for an optimizer of your own, my_pkg.module:make{for_group}: remove them"


def _wrong_args(config: Config) -> Iterator[Problem]:
    for section, kind in (("objective", "an objective"), ("loss", "a loss"), ("optim", "an optimizer")):
        name, args = getattr(config, section).name, getattr(config, section).args
        if args and ":" not in name:
            yield (
                f"{section}.args",
                f"{section}.args is for {kind} of your own, but {section}.name is {name}: remove {section}.args, or "
                f"write {section}.name=my_pkg.module:make",
            )


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
    micro = config.train.micro_batch_size or config.train.global_batch_size // world_size
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
