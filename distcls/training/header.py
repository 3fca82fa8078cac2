"""What will happen, before it does: the header of a run, and `--dry-run`."""

from __future__ import annotations

import torch
from torch import nn

from distcls.cluster.processes import Processes
from distcls.config.durations import describe_every, parse_duration, steps_at
from distcls.config.settings import Config
from distcls.data.split import Data
from distcls.errors import UsageError
from distcls.optim.build import momenta_per_weight
from distcls.optim.losses import weigh_classes
from distcls.plan.batches import BatchPlan
from distcls.runs.resolution import describe_precision

LARGEST_FOR_SMALL_MODELS = 96
"""Pixels from which on the hidden layer of cnn2 and cnn3 has more weights than there is to learn."""


def check_plan(config: Config, data: Data, plan: BatchPlan) -> None:
    """Raises UsageError where a setting needs a split that is not there, or more steps than there are."""
    if config.train.early_stopping is not None and data.val is None:
        raise UsageError(
            f"train.early_stopping={config.train.early_stopping} watches the val split, and there is none: give "
            "it some images (data.val_fraction=0.1), or leave early stopping out"
        )
    warmup = steps_at(parse_duration(config.optim.warmup), plan)
    if warmup > plan.total_steps:
        raise UsageError(
            f"optim.warmup={config.optim.warmup} is {warmup:,} steps, but the run has {plan.total_steps:,}: its "
            "learning rate would never reach optim.lr. Make it shorter, such as optim.warmup=5%"
        )


def describe(
    config: Config, data: Data, plan: BatchPlan, module: nn.Module, processes: Processes
) -> list[tuple[str, str]]:
    """Name and value of each thing worth knowing before the first step."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    precision = describe_precision(config.train, processes.device)
    mode = ", deterministic" if config.train.deterministic else ""
    num_bad = len(data.report["bad_files"])
    left_out = f"; {num_bad} unreadable left out, see data_report.json" if num_bad else ""
    num_ignored = data.report["num_ignored_files"]
    ignored = f"; {_count(num_ignored, 'other file')} ignored" if num_ignored else ""
    epoch_steps = plan.num_images / plan.global_batch_size
    return [
        ("data", config.data.root or config.data.name),
        ("split", ", ".join(f"{split.name} {len(split):,}" for split in data.splits()) + f" images{left_out}{ignored}"),
        ("classes", f"{len(data.class_names)}: {_shorten(data.class_names)}"),
        *_describe_balance(config, data),
        *(("warning", warning) for warning in data.report["warnings"]),
        *_warn_of_batch(plan),
        ("images", _describe_images(data)),
        ("model", f"{config.model.name}, {trained:,} parameters" + (f", {frozen:,} frozen" if frozen else "")),
        *_warn_of_model(config, data, trained),
        ("device", f"{_count(processes.world_size, processes.device.type)}, {precision}{mode}"),
        (
            "batch",
            f"{plan.global_batch_size} = {_count(plan.world_size, 'process')}"
            f" × {_count(plan.micro_batch_size, 'image')} × {_count(plan.grad_accum_steps, 'accumulation step')}",
        ),
        ("steps", f"{plan.total_steps:,} = {plan.epoch(plan.total_steps):.4g} epochs of {epoch_steps:.5g} steps"),
    ]


def _warn_of_batch(plan: BatchPlan) -> list[tuple[str, str]]:
    if plan.global_batch_size <= plan.num_images:
        return []
    text = f"a batch of {plan.global_batch_size:,} is more than the {plan.num_images:,} training images: "
    advice = "a smaller train.global_batch_size gives more steps"
    return [("warning", f"{text}each step sees all of them, {plan.epoch(1):.3g} times; {advice}")]


def _warn_of_model(config: Config, data: Data, trained: int) -> list[tuple[str, str]]:
    if config.model.name not in ("cnn2", "cnn3") or data.image_size <= LARGEST_FOR_SMALL_MODELS:
        return []
    text = f"{config.model.name} is made for small images, and has {trained:,} weights at {data.image_size} pixels: "
    return [("warning", f"{text}try model.name=resnet9 or torchvision/resnet18, with augment.flip=true")]


def _describe_balance(config: Config, data: Data) -> list[tuple[str, str]]:
    """What is done about rare classes, if anything."""
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
    return f"{size}, for training cut at random from {whole}, {place}"


def estimate_memory(config: Config, plan: BatchPlan, module: nn.Module, image_size: int) -> int:
    """Bytes on each device for one step: weights, gradients, optimizer, average, and activations.

    Activations are counted by running one image through the model and adding up what its layers give
    out, which is about what the backward pass keeps.
    """
    itemsize = 8 if config.train.precision == "float64" else 4
    activation_itemsize = 2 if config.train.precision in ("bf16", "fp16") else itemsize
    copies = 2 + momenta_per_weight(config.optim) + (config.train.ema_decay is not None)
    outputs = [0]
    handles = [
        layer.register_forward_hook(lambda _, __, out: outputs.append(out.numel() if torch.is_tensor(out) else 0))
        for layer in module.modules()
        if not list(layer.children())
    ]
    with torch.inference_mode():
        module.eval()(torch.zeros(1, 3, image_size, image_size))
    for handle in handles:
        handle.remove()
    weights = sum(p.numel() for p in module.parameters()) * itemsize * copies
    return weights + sum(outputs) * plan.micro_batch_size * activation_itemsize


def describe_plan(
    config: Config, data: Data, plan: BatchPlan, module: nn.Module, processes: Processes
) -> list[tuple[str, str]]:
    """What --dry-run shows: the header, and what is only worth knowing when planning."""
    memory = estimate_memory(config, plan, module, data.image_size)
    evaluations = -(-len(data.val) // config.train.eval_batch_size) if data.val else 0
    return [
        *describe(config, data, plan, module, processes),
        (
            "evaluation",
            f"{describe_every(config.train.eval_every)}: "
            f"{_count(evaluations, 'batch')} of {config.train.eval_batch_size}",
        ),
        (
            "checkpoint",
            f"{describe_every(config.train.checkpoint_every)}, the last {config.train.keep_checkpoints} are kept",
        ),
        (
            "memory",
            f"about {memory / 2**20:,.0f} MiB per process for weights, optimizer and activations, beside "
            "what libraries and their buffers take",
        ),
    ]


def _count(number: int, thing: str) -> str:
    plural = "es" if thing.endswith(("s", "ch")) else "s"
    return f"{number:,} {thing}{'' if number == 1 or thing in ('cpu', 'cuda', 'mps') else plural}"


def _shorten(names: list[str], width: int = 60) -> str:
    shown: list[str] = []
    for name in names:
        if len(", ".join([*shown, name])) > width:
            return ", ".join(shown) + " …"
        shown.append(name)
    return ", ".join(shown)
