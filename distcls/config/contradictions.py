"""Checks for settings that are valid alone but conflict with each other or have no effect, and says what to type.

Nothing here is slow to import: the loader looks for contradictions before torch is imported. plan/batches.py checks the
batch sizes again once it knows how many processes were started.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from distcls.config.batch_sizes import Problem, micro_batch_size_of, wrong_batches
from distcls.config.byte_size import parse_size
from distcls.config.durations import parse_duration
from distcls.config.settings import (
    WITH_MIN_LR,
    WITH_MOMENTUM,
    WITHOUT_PATHS,
    Config,
    DataConfig,
    ModelConfig,
    NormalizeConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from distcls.config.wording import either
from distcls.config.yaml_text import as_plain, shown

LEAST_WITHOUT_UNIT = 10**6
"""Bytes; whoever writes less without a unit means another one, such as GB."""

LONGEST_NAME = 200
"""Bytes; file systems allow 255."""

NO_LENGTH = "neither train.num_epochs nor train.num_steps is set: give one of them"


class Belongs(NamedTuple):
    """A setting that only has an effect if another one, `to`, has one of these values."""

    setting: str
    to: str
    values: tuple[str, ...]

    def applies(self, to: Any) -> bool:
        """True if the setting has an effect when the other one has this value."""
        return to in self.values

    def place(self) -> str:
        """Return the condition for it: "optim.name=sgd"."""
        return f"{self.to}={either(self.values)}"


BELONGS = (
    Belongs("optim.momentum", "optim.name", WITH_MOMENTUM),
    Belongs("optim.nesterov", "optim.name", WITH_MOMENTUM),
    Belongs("optim.normalize_weights", "optim.name", ("muon",)),
    Belongs("optim.betas", "optim.name", ("adam", "adamw")),
    Belongs("optim.eps", "optim.name", ("adam", "adamw")),
    Belongs("optim.gamma", "optim.schedule", ("step",)),
    Belongs("optim.milestones", "optim.schedule", ("step",)),
    Belongs("optim.min_lr", "optim.schedule", WITH_MIN_LR),
    Belongs("loss.label_smoothing", "loss.name", ("cross_entropy", "focal")),
    Belongs("loss.class_weights", "loss.name", ("cross_entropy", "focal")),
    Belongs("loss.gamma", "loss.name", ("focal",)),
    Belongs("loss.beta", "loss.class_weights", ("effective",)),
)
"""Such settings are refused where they have no effect, because whoever sets one believes that it matters."""

DEFAULTS = Config()

TAKE_ARGS = ("proxy_selection",)
"""Built-in objectives that have arguments."""


def contradictions(config: Config, world_size: int, unsure: Collection[str] = ()) -> Iterator[Problem]:
    """Yield the problems of a config on this many processes.

    unsure: settings and sections with invalid values; rules that read any of them are skipped.
    """
    for rule, reads in RULES:
        if not any(overlap(path, wrong) for path in reads.split() for wrong in unsure):
            yield from rule(config, world_size)
    for one in BELONGS:
        if not any(overlap(path, wrong) for path in (one.setting, one.to) for wrong in unsure):
            yield from _ignored(config, one)


def overlap(path: str, other: str) -> bool:
    """True if one of two settings or sections is the other, or inside it."""
    return f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")


def _ignored(config: Config, rule: Belongs) -> Iterator[Problem]:
    value, default, now = config.at(rule.setting), DEFAULTS.at(rule.setting), config.at(rule.to)
    if value == default or rule.applies(now) or any(map(rule.applies, _in_groups(config, rule.to))):
        return
    own = ", or do it in your own code" if ":" in str(now) else ""
    yield (
        rule.setting,
        f"{rule.setting}={shown(as_plain(value))} has no effect: it applies only to {rule.place()}, but {rule.to} is "
        f"{shown(as_plain(now))}. Change one of them, or leave {rule.setting} at {shown(as_plain(default))}{own}",
    )


def _in_groups(config: Config, path: str) -> Iterator[Any]:
    """Yield a setting's values in the parameter groups, if it is one of `optim`."""
    section, _, name = path.partition(".")
    for group in config.optim.groups if section == "optim" else ():
        yield getattr(config.optim.for_group(group), name)


def _wrong_data(data: DataConfig) -> Iterator[Problem]:
    if data.args and data.name != "synthetic" and ":" not in data.name:
        yield (
            "data.args",
            f"data.args is for data.name=synthetic and for your own factories, but data.name is {data.name}: "
            "remove data.args",
        )
    if data.root is not None and not data.root.strip():
        yield "data.root", "data.root is empty: give the folder or file of your images, or leave it out"
    elif data.root is not None and data.name in ("digits", "synthetic"):
        yield (
            "data.root",
            f"data.root={data.root} is not used by data.name={data.name}: add data.name=folder (or csv, npz …), "
            "or leave one of them out",
        )
    if data.folds is not None and data.fold is None:
        yield (
            "data.folds",
            f"data.folds={data.folds} does not say which fold is val: add data.fold=0 (up to {data.folds - 1}) for "
            "one of them, or run all of them: distcls crossval",
        )
    if data.fold is not None and data.folds is None:
        yield "data.fold", f"data.fold={data.fold} needs the number of folds: add data.folds, such as data.folds=5"
    elif data.fold is not None and data.folds is not None and data.fold >= data.folds:
        yield "data.fold", f"data.fold={data.fold} must be from 0 to {data.folds - 1}, for data.folds={data.folds}"


def _wrong_groups_of_images(data: DataConfig) -> Iterator[Problem]:
    if data.groups is None:
        return
    if data.name in WITHOUT_PATHS:
        yield (
            "data.groups",
            f"data.groups={data.groups} finds groups by the paths of images or in a CSV file, but "
            f"data.name={data.name} has neither: leave it out, or save the images as files",
        )
    elif not data.has_group_column and (problem := wrong_expression(data.groups)):
        yield (
            "data.groups",
            f"data.groups={data.groups} {problem}: give a regular expression with parentheses around the name of the "
            r"group, such as data.groups='(patient\d+)_'",
        )


def wrong_expression(expression: str) -> str | None:
    """Return what keeps a regular expression from finding groups of images, to follow data.groups=…; else None."""
    try:
        return None if re.compile(expression).groups else "captures nothing, because it has no parentheses"
    except re.error as error:
        return f"is not a regular expression ({error})"


def _wrong_sizes(data: DataConfig) -> Iterator[Problem]:
    for name in ("cache", "disk_cache"):
        size = getattr(data, name)
        try:
            num_bytes = parse_size(size)
        except ValueError as error:
            yield f"data.{name}", f"data.{name}={error}"
            continue
        if 0 < num_bytes < LEAST_WITHOUT_UNIT and size.strip()[-1].isdigit():
            size = size.strip()
            yield (
                f"data.{name}",
                f"data.{name}={size} has no unit, so it would be {num_bytes:,} bytes: write '{size} GB', '{size} MB' "
                "or 0",
            )


def _wrong_length(train: TrainConfig) -> Iterator[Problem]:
    if train.num_steps is not None and train.num_epochs is not None:
        yield (
            "train.num_steps",
            f"train.num_steps={train.num_steps} and train.num_epochs={train.num_epochs:g} both set the length of the "
            "run: give only one of them",
        )
    if train.num_steps is None and train.num_epochs is None:
        yield "train.num_epochs", NO_LENGTH


def _wrong_names(run: RunConfig) -> Iterator[Problem]:
    """Yield problems with run.name and run.dir. A run's name names a folder, and may get a suffix such as -fold0."""
    if run.name is not None and (not run.name.strip() or run.name in (".", "..") or "\0" in run.name):
        yield "run.name", f"run.name={run.name!r} cannot be the name of a folder: choose another, or leave it out"
    if run.dir is not None and not run.dir.strip():
        yield "run.dir", "run.dir is empty: give a folder, or leave it out"
    for setting, text in (("run.name", run.name), ("run.dir", run.dir)):
        longest = max(len(part.encode()) for part in (text or "").split("/"))
        if longest > LONGEST_NAME:
            yield (
                setting,
                f"{setting} has a name of {longest} bytes, but only {LONGEST_NAME} are allowed: shorten it",
            )


def _wrong_periods(train: TrainConfig) -> Iterator[Problem]:
    for name in ("log_every", "eval_every", "checkpoint_every"):
        if parse_duration(getattr(train, name)).value == 0:
            yield f"train.{name}", f"train.{name} must be longer than zero: the shortest is '1 step'"


def _wrong_freezing(model: ModelConfig) -> Iterator[Problem]:
    for name, duration in model.freeze_until.items() if isinstance(model.freeze_until, dict) else ():
        if parse_duration(duration).value == 0:
            yield (
                f"model.freeze_until.{name}",
                f"model.freeze_until.{name}={duration} freezes nothing: give a duration longer than zero, or leave it "
                "out",
            )


def _wrong_with_head_only(config: Config) -> Iterator[Problem]:
    if not config.model.head_only:
        return
    if config.objective.name == "proxy_selection":
        yield (
            "objective.name",
            "objective.name=proxy_selection has no use with model.head_only=true, which trains on features and not on "
            "images: leave out one of them",
        )
    for setting in ("model.freeze_until", "optim.layer_decay", "train.checkpoint_activations"):
        value = config.at(setting)
        if value != DEFAULTS.at(setting):
            yield (
                setting,
                f"{setting}={shown(as_plain(value))} has no effect with model.head_only=true, which trains nothing but "
                "the head: leave out one of them",
            )


def _wrong_schedule(optim: OptimConfig) -> Iterator[Problem]:
    if optim.schedule == "step" and not optim.milestones:
        yield "optim.schedule", "optim.schedule=step needs milestones, such as optim.milestones=['50%', '75%']"
    if optim.schedule == "range_test" and not 0 < optim.min_lr < optim.lr:
        yield (
            "optim.min_lr",
            f"optim.schedule=range_test goes from optim.min_lr={optim.min_lr:g} to optim.lr={optim.lr:g}: give a "
            "min_lr above 0 and below lr, such as optim.min_lr=1e-7 optim.lr=10",
        )
    if optim.schedule in ("cosine", "linear", "one_cycle") and optim.min_lr > optim.lr:
        yield (
            "optim.min_lr",
            f"optim.min_lr={optim.min_lr:g}, the final learning rate, is above optim.lr={optim.lr:g}, its peak: "
            "make it smaller",
        )


def _wrong_optimizer(optim: OptimConfig) -> Iterator[Problem]:
    if optim.nesterov and optim.name in WITH_MOMENTUM and optim.momentum == 0:
        yield "optim.nesterov", "optim.nesterov needs optim.momentum above 0, such as optim.momentum=0.9"
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        yield "optim.betas", f"optim.betas must be two numbers, at least 0 and below 1, but {optim.betas} was given"


def _wrong_lookahead(optim: OptimConfig) -> Iterator[Problem]:
    if optim.lookahead is not None and optim.lookahead.decay == 1 and optim.lookahead.power == 0:
        yield (
            "optim.lookahead",
            "optim.lookahead with decay=1 and power=0 would never move the slow weights, so nothing would be learned: "
            "give a smaller decay, such as optim.lookahead.decay=0.5",
        )


def _wrong_compilation(train: TrainConfig) -> Iterator[Problem]:
    if train.deterministic and train.compile == "max-autotune":
        yield (
            "train.compile",
            "train.compile=max-autotune times kernels and takes the fastest, so two starts may round differently, "
            "which train.deterministic=true rules out: use train.compile=true, or leave out one of them",
        )


def _wrong_groups(optim: OptimConfig) -> Iterator[Problem]:
    for group in optim.groups:
        effective, for_group = optim.for_group(group), f" (the group that matches {group.match!r})"
        for _, problem in (*_wrong_schedule(effective), *_wrong_optimizer(effective)):
            yield "optim.groups", problem + for_group
        for rule in BELONGS:
            section, name = rule.setting.split(".")
            if section != "optim" or getattr(group, name) is None:
                continue
            now = getattr(effective, rule.to.removeprefix("optim."))
            if not rule.applies(now):
                yield (
                    "optim.groups",
                    f"{name} is for {rule.place()}, but {rule.to} is {now}{for_group}: "
                    f"remove {name}" + (", or give it in args" if ":" in now else ""),
                )
        if effective.args and ":" not in effective.name:
            yield "optim.groups", f"args are for your own optimizer, my_pkg.module:make{for_group}: remove them"


def _wrong_args(config: Config) -> Iterator[Problem]:
    for section, kind in (("objective", "an objective"), ("loss", "a loss"), ("optim", "an optimizer")):
        name, args = getattr(config, section).name, getattr(config, section).args
        if args and ":" not in name and name not in TAKE_ARGS:
            yield (
                f"{section}.args",
                f"{section}.args is for {kind} of your own, but {section}.name is {name}: remove {section}.args, or "
                f"write {section}.name=my_pkg.module:make",
            )


def _wrong_colors(data: DataConfig) -> Iterator[Problem]:
    if not _is_color(data.background):
        yield (
            "data.background",
            f"data.background={data.background} is not a color: "
            'give a CSS color name, such as black, or "#rrggbb" in quotes',
        )
    if data.float_range is not None and (len(data.float_range) != 2 or data.float_range[0] == data.float_range[1]):
        yield (
            "data.float_range",
            f"data.float_range must be two different numbers, for black and white, but {data.float_range} was given",
        )


def _is_color(name: str) -> bool:
    if name == "white":  # the default needs no import
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
                "for gray images, repeat one number 3 times",
            )
    if not all(number > 0 for number in normalize.std):
        yield "augment.normalize.std", f"augment.normalize.std must be above 0, but {normalize.std} was given"


def _wrong_mixing(config: Config, world_size: int) -> Iterator[Problem]:
    micro = micro_batch_size_of(config.train, world_size)
    for name, verb in (("mixup", "mixes"), ("cutmix", "cuts and mixes")):
        if getattr(config.augment, name) and micro == 1:
            yield (
                f"augment.{name}",
                f"augment.{name} {verb} the images of a micro-batch, but a micro-batch is one image here: "
                f"raise train.micro_batch_size (or train.global_batch_size), or set augment.{name}=0",
            )


def _wrong_weights(config: Config) -> Iterator[Problem]:
    weights, sampling = config.loss.class_weights, config.train.sampling
    if weights in ("balanced", "effective") and sampling != "none":
        yield (
            "loss.class_weights",
            f"loss.class_weights={weights} and train.sampling={sampling} would compensate for rare classes twice: "
            "set one of them to none",
        )
    for name, weight in weights.items() if isinstance(weights, dict) else ():
        if weight <= 0:
            yield f"loss.class_weights.{name}", f"loss.class_weights.{name} must be above 0, but {weight:g} was given"


def _wrong_source(model: ModelConfig) -> Iterator[Problem]:
    if model.init_from is not None and model.weights is not None:
        yield (
            "model.init_from",
            f"model.init_from={model.init_from} and model.weights={model.weights} both name initial weights: leave out "
            "one of them",
        )


def _wrong_crop(config: Config) -> Iterator[Problem]:
    crop, data = config.augment.random_resized_crop, config.data
    if crop is None:
        may_crop = config.preset == "auto" and config.may_have_preset
        if data.decode_size is not None and not may_crop:
            yield (
                "data.decode_size",
                f"data.decode_size={data.decode_size} has no effect: it applies only to "
                "augment.random_resized_crop, which is off. Add augment.random_resized_crop={}, or leave out "
                "data.decode_size",
            )
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
            f"data.decode_size={data.decode_size} is smaller than data.image_size={data.image_size}, so images would "
            f"have to be enlarged: make it {data.image_size} or more, or leave it out",
        )


def _wrong_for_features(config: Config) -> Iterator[Problem]:
    if not config.model.head_only:
        return
    changed = [name for name, default in vars(DEFAULTS.augment).items() if getattr(config.augment, name) != default]
    for name in changed:
        if name != "normalize":
            yield (
                f"augment.{name}",
                f"augment.{name} has no effect with model.head_only=true, which computes the features of each image "
                f"only once: leave out augment.{name}, or set model.head_only=false",
            )
    if config.model.freeze:
        yield "model.freeze", "model.freeze has no effect with model.head_only=true, which freezes all but the head"


RULES: tuple[tuple[Callable[[Config, int], Iterator[Problem]], str], ...] = (
    (lambda config, _: _wrong_data(config.data), "data.name data.args data.root data.folds data.fold"),
    (lambda config, _: _wrong_groups_of_images(config.data), "data.groups data.name"),
    (lambda config, _: _wrong_sizes(config.data), "data.cache data.disk_cache"),
    (lambda config, _: _wrong_length(config.train), "train.num_epochs train.num_steps"),
    (
        lambda config, world_size: wrong_batches(config.train, world_size),
        "train.global_batch_size train.micro_batch_size train.deterministic train.sync_batchnorm",
    ),
    (lambda config, _: _wrong_periods(config.train), "train.log_every train.eval_every train.checkpoint_every"),
    (lambda config, _: _wrong_freezing(config.model), "model.freeze_until"),
    (
        lambda config, _: _wrong_with_head_only(config),
        "model.head_only model.freeze_until optim.layer_decay train.checkpoint_activations objective.name",
    ),
    (lambda config, _: _wrong_schedule(config.optim), "optim.schedule optim.milestones optim.min_lr optim.lr"),
    (lambda config, _: _wrong_optimizer(config.optim), "optim.name optim.momentum optim.nesterov optim.betas"),
    (lambda config, _: _wrong_lookahead(config.optim), "optim.lookahead"),
    (lambda config, _: _wrong_compilation(config.train), "train.compile train.deterministic"),
    (lambda config, _: _wrong_groups(config.optim), "optim"),
    (lambda config, _: _wrong_args(config), "objective.name objective.args loss.name loss.args optim.name optim.args"),
    (lambda config, _: _wrong_colors(config.data), "data.background data.float_range"),
    (lambda config, _: _wrong_normalize(config.augment.normalize), "augment.normalize"),
    (
        _wrong_mixing,
        "augment.mixup augment.cutmix train.global_batch_size train.micro_batch_size train.deterministic",
    ),
    (lambda config, _: _wrong_weights(config), "loss.class_weights train.sampling"),
    (lambda config, _: _wrong_source(config.model), "model.init_from model.weights"),
    (lambda config, _: _wrong_crop(config), "augment.random_resized_crop data.decode_size data.image_size preset"),
    (lambda config, _: _wrong_names(config.run), "run.name run.dir"),
    (lambda config, _: _wrong_for_features(config), "augment model.head_only model.freeze"),
)
"""Each rule and the settings it reads."""
