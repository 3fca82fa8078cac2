"""The header of a run and of `--dry-run`: shows what is about to happen, before it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from distcls.cluster.machine import gigabytes
from distcls.cluster.processes import Processes
from distcls.config.batch_sizes import divisors, fitting_world_sizes
from distcls.config.durations import describe_every, parse_duration, steps_at
from distcls.config.loading import PRESET_FOLDER
from distcls.config.settings import PRESETS, Config, ModelConfig, TrainConfig
from distcls.config.wording import count, either
from distcls.data.split import Data
from distcls.errors import UsageError
from distcls.optim.depth import lr_scales
from distcls.optim.losses import weigh_classes
from distcls.optim.schedules import lr_at
from distcls.plan.batches import BatchPlan, total_steps
from distcls.runs.resolution import describe_precision
from distcls.runs.resuming import newest_step, trained_length
from distcls.training.start.memory import Memory, estimate_memory, largest_that_fits, memory_for_each_process

LARGEST_FOR_SMALL_MODELS = 96
"""Pixels. For larger images, the hidden layer of cnn2 and cnn3 has far too many weights."""


def check_plan(config: Config, data: Data, plan: BatchPlan) -> None:
    """Raise UsageError if a setting needs a split that does not exist, or more steps than the run has."""
    if config.train.early_stopping is not None and data.val is None:
        raise UsageError(
            f"train.early_stopping={config.train.early_stopping} watches the val split, but there is none: give "
            "it some images (data.val_fraction=0.1), or leave out early stopping"
        )
    warmup = steps_at(parse_duration(config.optim.warmup), plan)
    if warmup > plan.total_steps:
        raise UsageError(
            f"optim.warmup={config.optim.warmup} is {warmup:,} steps, but the run has only {plan.total_steps:,}: its "
            "learning rate would never reach optim.lr. Use a shorter warmup, such as optim.warmup=5%"
        )
    lookahead = config.optim.lookahead
    if lookahead is not None and lookahead.every > plan.total_steps:
        raise UsageError(
            f"optim.lookahead.every={lookahead.every:,} is more than the {plan.total_steps:,} steps of the run, so the "
            "slow weights would never move, and the run would end with the initial ones. Use fewer, such as "
            "optim.lookahead.every=5"
        )
    # A preset's freezing does not stop anyone from trying a few steps.
    of_preset = config.preset in PRESETS and not config.gives("model.freeze_until")
    for part, (duration, steps) in _frozen_parts(config.model, plan).items():
        if steps >= plan.total_steps and not of_preset:
            raise UsageError(
                f"model.freeze_until{part and '.' + part}={duration} is {steps:,} steps, but the run has only "
                f"{plan.total_steps:,}. Use a shorter time, such as model.freeze_until='0 steps', or freeze parts for "
                "the whole run: model.freeze=[NAME]"
            )


def describe(
    config: Config, data: Data, plan: BatchPlan, module: nn.Module, processes: Processes, resumed: bool = False
) -> list[tuple[str, str]]:
    """Return (name, value) pairs: what is worth knowing before the first step. resumed: there is a checkpoint."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    precision = describe_precision(config, processes.device, resumed)
    mode = ", deterministic" if config.train.deterministic else ""
    num_bad = len(data.report["bad_files"])
    left_out = f"; {num_bad} unreadable skipped, see data_report.json" if num_bad else ""
    num_excluded = data.report["num_excluded"]
    excluded = f"; {num_excluded:,} excluded" if num_excluded else ""
    num_ignored = data.report["num_ignored_files"]
    ignored = f"; {count(num_ignored, 'other file')} ignored" if num_ignored else ""
    return [
        *_describe_preset(config),
        ("data", config.data.root or config.data.name),
        (
            "split",
            ", ".join(f"{split.name} {len(split):,}" for split in data.splits())
            + f" images{_describe_groups(data)}{left_out}{excluded}{ignored}",
        ),
        ("classes", f"{len(data.class_names)}: {_shorten(data.class_names)}"),
        *_describe_balance(config, data),
        *(("warning", warning) for warning in data.report["warnings"]),
        *_warn_of_batch(plan),
        ("images", _describe_images(data)),
        ("model", f"{config.model.name}, {trained:,} parameters" + (f", {frozen:,} frozen" if frozen else "")),
        *_warn_of_model(config, data, trained),
        *_describe_freezing(config.model, plan),
        *_describe_layer_decay(config.optim.layer_decay, module),
        ("device", f"{count(processes.world_size, processes.device.type)}, {precision}{mode}"),
        (
            "batch",
            f"{plan.global_batch_size} = {count(plan.world_size, 'process')}"
            f" × {count(plan.micro_batch_size, 'image')} × {count(plan.grad_accum_steps, 'accumulation step')}",
        ),
        ("sharing", _describe_sharing(config.train, plan)),
        ("rate", _describe_rate(config, plan)),
        *_warn_of_memory(config, data, plan, module, processes),
        ("steps", _describe_steps(config.train, plan)),
    ]


def _describe_groups(data: Data) -> str:
    groups = data.report.get("groups")
    if not groups:
        return ""
    in_splits = ", ".join(f"{name} {number:,}" for name, number in groups["num_in_split"].items())
    return f", grouped by {groups['by']}: {count(groups['num_groups'], 'group')} ({in_splits})"


def _describe_preset(config: Config) -> list[tuple[str, str]]:
    if config.preset not in PRESETS:
        return []
    which = "photographs and a network without initial weights" if config.preset == "scratch" else "photographs"
    why = "" if config.is_given("preset") else f", the default for {which} (turn it off with --preset none)"
    return [("preset", f"{config.preset}{why}, from {PRESET_FOLDER / config.preset}.yaml")]


def _frozen_parts(model: ModelConfig, plan: BatchPlan) -> dict[str, tuple[str, int]]:
    """Return each part of model.freeze_until, with its duration as given and in steps; "" is all but the head."""
    parts = model.frozen_parts.items()
    return {part: (duration, steps_at(parse_duration(duration), plan)) for part, duration in parts}


def _describe_freezing(model: ModelConfig, plan: BatchPlan) -> list[tuple[str, str]]:
    """Return what is frozen at first, and until when: "all but the head until step 35"."""
    parts = {part or "all but the head": steps for part, (_, steps) in _frozen_parts(model, plan).items() if steps}
    return [("frozen", ", ".join(f"{part} until step {steps:,}" for part, steps in parts.items()))] if parts else []


def _describe_layer_decay(layer_decay: float, module: nn.Module) -> list[tuple[str, str]]:
    """Return "0.75: from 0.03 (stem) to 1 (head)", the factors of the learning rate."""
    if layer_decay == 1:
        return []
    return [
        ("layer decay", f"{layer_decay:g}: from {min(lr_scales(layer_decay, module).values()):.2g} (stem) to 1 (head)")
    ]


def _describe_rate(config: Config, plan: BatchPlan) -> str:
    """Return "0.002, adamw, cosine, warmup of 35 steps, EMA of the weights 0.99": how weights are updated."""
    optim, warmup = config.optim, steps_at(parse_duration(config.optim.warmup), plan)
    parts = [f"{optim.lr:.3g}", optim.name, optim.schedule]
    if warmup:
        parts.append(f"warmup of {count(warmup, 'step')}")
    if optim.groups:
        parts.append(
            f"{count(len(optim.groups), 'group')} with settings of {'its' if len(optim.groups) == 1 else 'their'} own"
        )
    if config.train.ema_decay is not None:
        parts.append(f"EMA of the weights {config.train.ema_decay:g}")
    return ", ".join(parts)


def _describe_steps(train: TrainConfig, plan: BatchPlan) -> str:
    """Return "607 = 30 epochs of about 20.2 steps"."""
    epochs = plan.epoch(plan.total_steps) if train.num_epochs is None else train.num_epochs
    per_epoch = plan.num_images / plan.global_batch_size
    about = "" if per_epoch.is_integer() else "about "
    steps = f"{about}{per_epoch:,.0f}" if per_epoch >= 1000 else f"{about}{per_epoch:.3g}"
    return (
        f"{plan.total_steps:,} = {epochs:.4g} {'epoch' if epochs == 1 else 'epochs'} of {steps} "
        f"{'step' if steps == '1' else 'steps'}"
    )


def _describe_sharing(train: TrainConfig, plan: BatchPlan) -> str:
    """Return which numbers of processes can share the run, and how to start one that more can share."""
    fitting = fitting_world_sizes(train, plan.micro_batch_size)
    shown = either(fitting) if len(fitting) <= 6 else f"{', '.join(map(str, fitting[:3]))} … {fitting[-1]}"
    alone = len(fitting) == 1
    text = "1 process only" if alone else f"{shown} processes can share this run"
    if plan.grad_accum_steps > 1 or plan.micro_batch_size == 1:
        return text
    smaller = divisors(plan.micro_batch_size)[-2]
    run = "the run" if alone else "it"
    return f"{text}; for more, start {run} with a smaller micro-batch, such as train.micro_batch_size={smaller}"


def _warn_of_memory(
    config: Config, data: Data, plan: BatchPlan, module: nn.Module, processes: Processes
) -> list[tuple[str, str]]:
    memory = estimate_memory(config, module, data.image_size)
    limit = memory_for_each_process(processes)
    if memory is None or limit is None or memory.of_step(plan.micro_batch_size) <= limit:
        return []
    fits = largest_that_fits(memory, plan.micro_batch_size, limit)
    advice = "a smaller model or smaller images (data.image_size)" if fits is None else f"train.micro_batch_size={fits}"
    needed = gigabytes(memory.of_step(plan.micro_batch_size))
    text = f"OUT OF MEMORY? A step needs about {needed} per process, but there is {gigabytes(limit)}: try {advice}"
    return [("warning", text)]


def describe_longer(config: Config, plan: BatchPlan, run_dir: Path) -> list[tuple[str, str]]:
    """Return a line about a finished run that is being made longer, because its schedule changes."""
    length, step = trained_length(run_dir), newest_step(run_dir)
    if not length.get("ended") or not step:
        return []
    shorter = replace(config.train, num_epochs=length.get("num_epochs"), num_steps=length.get("num_steps"))
    before = replace(plan, total_steps=total_steps(shorter, plan.num_images))
    if before.total_steps >= plan.total_steps:
        return []
    old, new = lr_at(step - 1, config.optim, before), lr_at(step, config.optim, plan)
    rate = f"the learning rate stays at {new:.3g}"
    if new != old:
        change = "rises again" if new > old else "falls"
        rate = f"its schedule now spans {plan.total_steps:,}, so the learning rate {change} from {old:.3g} to {new:.3g}"
    return [("longer", f"this run ended after {count(step, 'step')}: {rate}")]


def _warn_of_batch(plan: BatchPlan) -> list[tuple[str, str]]:
    if plan.global_batch_size <= plan.num_images:
        return []
    text = f"a batch of {plan.global_batch_size:,} exceeds the {plan.num_images:,} training images: "
    advice = "a smaller train.global_batch_size gives more steps"
    return [("warning", f"{text}each step uses every image {plan.epoch(1):.3g} times; {advice}")]


def _warn_of_model(config: Config, data: Data, trained: int) -> list[tuple[str, str]]:
    if config.model.name not in ("cnn2", "cnn3") or data.image_size <= LARGEST_FOR_SMALL_MODELS:
        return []
    text = f"{config.model.name} is meant for small images; at {data.image_size} pixels it has {trained:,} weights: "
    return [("warning", f"{text}try --preset balanced, which starts from a network trained on ImageNet")]


def _describe_balance(config: Config, data: Data) -> list[tuple[str, str]]:
    """Return how rare classes are handled, if at all."""
    said = {
        "none": [],
        "balanced": ["drawn with replacement, classes equally often"],
        "square_root": ["drawn with replacement, classes by the square root of their size"],
    }[config.train.sampling]
    weights = weigh_classes(config.loss, data.train.labels, data.class_names)
    if weights is not None:
        low, high = weights.argmin(), weights.argmax()
        names = data.class_names
        said.append(f"weights from {weights[low]:.3g} ({names[low]}) to {weights[high]:.3g} ({names[high]})")
    return [("balance", "; ".join(said))] if said else []


def _describe_images(data: Data) -> str:
    train = data.train
    place = "decoded, from disk"
    if train.pixels is None or train.in_memory:
        place = "from disk" if train.pixels is None else "in memory"
    size = f"{data.image_size} × {data.image_size} pixels"
    if train.random_crop is None:
        return f"{size}, {place}"
    side = train.decoding.image_size
    whole = "whole images" if train.decoding == train.random_crop else f"{side} × {side} pixels"
    return f"{size}, cropped at random from {whole} for training, {place}"


def describe_plan(
    config: Config, data: Data, plan: BatchPlan, module: nn.Module, processes: Processes, resumed: bool = False
) -> list[tuple[str, str]]:
    """Return what --dry-run shows: the header, and what helps in planning a run."""
    memory = estimate_memory(config, module, data.image_size)
    return [
        *describe(config, data, plan, module, processes, resumed),
        ("evaluation", _describe_evaluation(config.train, data)),
        (
            "checkpoint",
            f"{describe_every(config.train.checkpoint_every)}, keeping the last {config.train.keep_checkpoints}",
        ),
        ("memory", "unknown for this model" if memory is None else _describe_memory(memory, plan)),
    ]


def _describe_evaluation(train: TrainConfig, data: Data) -> str:
    if data.val is None:
        return "none, because there is no val split"
    batches = -(-len(data.val) // train.eval_batch_size)
    return f"{describe_every(train.eval_every)}: {count(len(data.val), 'image')} in {count(batches, 'batch')}"


def _describe_memory(memory: Memory, plan: BatchPlan) -> str:
    size = memory.of_step(plan.micro_batch_size) / 2**20
    return (
        f"about {size:,.0f} MiB per process for weights, optimizer and activations, plus memory for libraries and "
        "their buffers"
    )


def _shorten(names: list[str], width: int = 60) -> str:
    shown: list[str] = []
    for name in names:
        if len(", ".join([*shown, name])) > width:
            return ", ".join(shown) + " …"
        shown.append(name)
    return ", ".join(shown)
