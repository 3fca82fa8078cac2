"""Collects and prints what `distcls summary` says about a model: its layers, size, memory and speed."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from distcls.cluster.kernels import chosen_kernels
from distcls.cluster.processes import Processes
from distcls.config.batch_sizes import micro_batch_size_of
from distcls.config.settings import Config, DataConfig, ModelConfig
from distcls.config.wording import count
from distcls.data.decoding.decode import Decoding
from distcls.data.decoding.native_size import choose_decoding
from distcls.data.sources.datasets import IN_A_FILE, IN_A_FOLDER, open_image_sets
from distcls.errors import MissingInputError
from distcls.inference.classifier import Classifier
from distcls.inference.latency import BATCH_SIZES, measure_latency
from distcls.models.build import build_model, check_model_name
from distcls.models.catalogue import image_size_of
from distcls.models.layers import CONVENTION, Layer, layer_table, num_bytes
from distcls.models.weights import convert
from distcls.runs.resolution import chosen_precision, weights_dtype
from distcls.terminal.columns import lay_out, three_digits
from distcls.terminal.screens import open_screen
from distcls.training.start.memory import estimate_memory

NUM_CLASSES = 10
"""Classes of a model whose data is unknown."""

MOST_ROWS = 30
"""Rows of a table that is not given a depth, unless the model has more parts at its top."""


@dataclass(frozen=True)
class Summary:
    """A model's layers, size, memory and speed; its weights do not matter."""

    model: ModelConfig
    num_classes: int
    image_size: int
    notes: tuple[str, str]
    """Where the number of classes and the image size come from, if that is not obvious."""
    layers: list[Layer]
    """The whole network first (models/layers.py)."""
    num_bytes: int
    """Of its parameters and buffers, as they are saved."""
    micro_batch_size: int
    precision: str
    step_bytes: int | None
    """Estimated memory of a training step with a micro-batch; None if it cannot be estimated."""
    device: str
    latency: Mapping[int, float | None]
    """Median seconds by batch size; None for a batch that is too large to measure here."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        whole = self.layers[0]
        return {
            "model": {"name": self.model.name, "args": self.model.args},
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "parameters": whole.num_parameters,
            "trainable_parameters": whole.num_trainable,
            "size_bytes": self.num_bytes,
            "flops": whole.flops,
            "flops_convention": CONVENTION,
            "micro_batch_size": self.micro_batch_size,
            "precision": self.precision,
            "training_step_bytes": self.step_bytes,
            "device": self.device,
            "latency_seconds": {str(size): seconds for size, seconds in self.latency.items()},
            "layers": [layer.as_json() for layer in self.layers],
        }


def summarize_new(
    config: Config, num_classes: int | None, image_size: int | None, has_data: bool, with_latency: bool
) -> Summary:
    """Return the summary of a model that has not been trained.

    num_classes, image_size: None for those of the data. If it is not here, or none was named (has_data), they are
    NUM_CLASSES and the size that the model was made for. Raises UsageError for a model that does not exist or cannot
    take such images.
    """
    task = task_of(config, num_classes, image_size, has_data)
    names = [f"class {i}" for i in range(task.num_classes)]
    return summarize(config, names, Decoding(task.image_size), with_latency, task.notes)


class Task(NamedTuple):
    """The data that a model is for, as far as its size depends on it."""

    num_classes: int
    image_size: int
    notes: tuple[str, str]
    """Where they come from, as in Summary."""


def task_of(config: Config, num_classes: int | None, image_size: int | None, has_data: bool) -> Task:
    """Return what a model that has not been trained is for; see `summarize_new`."""
    check_model_name(config.model.name)
    found = _task_of_data(config.data) if has_data and None in (num_classes, image_size) else None
    source = f"from {config.data.root or config.data.name}"
    missing = "the data is not here" if has_data else "no data was named"
    notes = ["", ""]
    if num_classes is None:
        assumed = NUM_CLASSES, f"assumed because {missing}; set it with --classes N"
        num_classes, notes[0] = (found[0], source) if found else assumed
    if image_size is None and config.data.image_size is not None:
        image_size = config.data.image_size
    elif image_size is None:
        assumed = image_size_of(config.model.name), "the size the model was made for; set it with --image-size N"
        image_size, notes[1] = (found[1], source) if found else assumed
    return Task(num_classes, image_size, (notes[0], notes[1]))


def _task_of_data(config: DataConfig) -> tuple[int, int] | None:
    """Return the number of classes and the image size of the data; None if it is not here. Downloads nothing."""
    if config.root is None and config.name in (*IN_A_FOLDER, *IN_A_FILE):
        return None
    try:
        train = open_image_sets(dataclasses.replace(config, download=False), least_classes=1)["train"]
    except MissingInputError:
        return None
    size = choose_decoding(config, train).image_size
    assert size is not None
    return len(train.class_names), size


def summarize(
    config: Config,
    class_names: Sequence[str],
    decoding: Decoding,
    with_latency: bool,
    notes: tuple[str, str] = ("", ""),
) -> Summary:
    """Return the summary of a config's model with new weights. Nothing is downloaded or trained."""
    image_size = decoding.image_size
    assert image_size is not None
    network = build_model(without_weights(config.model), len(class_names), image_size)
    layers = layer_table(network, image_size)
    with Processes(config.run.device) as processes, chosen_kernels(config.train, processes):
        device = processes.device
        config = in_its_precision(config, device)
        train, micro_batch_size = config.train, micro_batch_size_of(config.train, world_size=1)
        memory = estimate_memory(config, network, image_size)
        convert(network, weights_dtype(train.precision), device)
        classifier = Classifier(network, config, class_names, decoding)
        return Summary(
            model=config.model,
            num_classes=len(class_names),
            image_size=image_size,
            notes=notes,
            layers=layers,
            num_bytes=num_bytes(network),
            micro_batch_size=micro_batch_size,
            precision=train.precision,
            step_bytes=None if memory is None else memory.of_step(micro_batch_size),
            device=device.type,
            latency=measure_latency(classifier, BATCH_SIZES) if with_latency else {},
        )


def in_its_precision(config: Config, device: torch.device) -> Config:
    """Return the config with the precision that a run would have on the device."""
    return config.replaced({"train.precision": chosen_precision(config.train.precision, device)})


def without_weights(model: ModelConfig) -> ModelConfig:
    """Return the config of the same network with new weights: a user's model might download those in model.args."""
    if ":" not in model.name:
        return model
    off = {"pretrained": False, "weights": None, "weights_backbone": None}
    return dataclasses.replace(model, args={key: off.get(key, value) for key, value in model.args.items()})


def print_summary(summary: Summary, depth: int | None) -> None:
    """Print the layers down to a depth (None: as deep as fits MOST_ROWS), and totals."""
    screen = open_screen(sys.stdout)
    parts = summary.layers[1:] or summary.layers
    deepest = max(layer.depth for layer in parts)
    depth = depth or _depth_that_fits(parts, deepest)
    shown = [layer for layer in parts if layer.depth <= depth]
    unit, per_unit = ("MFLOPs", 1e6) if summary.layers[0].flops >= 1e8 else ("kFLOPs", 1e3)
    rows = [_row(layer, per_unit) for layer in shown]
    title, *lines = lay_out(["layer", "type", "output", "parameters", unit], rows, 3, screen.width)
    screen.say(title, "bold")
    for line, layer in zip(lines, shown, strict=True):
        screen.say(line, "" if layer.depth == 1 else "dim")
    hidden = len(parts) - len(shown)
    if hidden:
        screen.say(f"{count(hidden, 'more module')} with --depth {deepest}", "dim")
    screen.say("")
    indent = 12
    for name, value in _totals(summary):
        screen.say(f"{name:<{indent}}{value}", label_width=indent)


def _depth_that_fits(parts: Sequence[Layer], deepest: int) -> int:
    fitting = [depth for depth in range(2, deepest + 1) if sum(layer.depth <= depth for layer in parts) <= MOST_ROWS]
    return max(fitting, default=1)


def _row(layer: Layer, per_unit: float) -> list[str]:
    name = "  " * (layer.depth - 1) + (layer.name.rpartition(".")[2] or "model")
    shape = "" if layer.output_shape is None else " × ".join(map(str, layer.output_shape))
    parameters = f"{layer.num_parameters:,}" if layer.num_parameters else ""
    return [name, layer.kind, shape, parameters, _flops_in(layer.flops, per_unit)]


def _flops_in(flops: int, per_unit: float) -> str:
    if not flops:
        return ""
    return f"{flops / per_unit:,.1f}" if flops >= per_unit / 20 else "< 0.1"


def _totals(summary: Summary) -> list[tuple[str, str]]:
    """Return (name, value) pairs."""
    whole, size = summary.layers[0], summary.image_size
    frozen = whole.num_parameters - whole.num_trainable
    split = f": {whole.num_trainable:,} trainable, {frozen:,} frozen" if frozen else ", all trainable"
    from_classes, from_size = (f" ({note})" if note else "" for note in summary.notes)
    memory = "unknown for this model"
    if summary.step_bytes is not None:
        images = count(summary.micro_batch_size, "image")
        memory = f"about {three_digits(summary.step_bytes / 2**20)} MiB for a training step of {images}"
    return [
        ("model", summary.model.name),
        ("classes", f"{summary.num_classes:,}{from_classes}"),
        ("images", f"{size} × {size} pixels{from_size}"),
        ("parameters", f"{whole.num_parameters:,}{split}"),
        ("size", f"{three_digits(summary.num_bytes / 1e6)} MB"),
        ("compute", f"{_flops(whole.flops)} per image ({CONVENTION})"),
        ("memory", memory),
        *[("latency" if i == 0 else "", _latency(images, summary)) for i, images in enumerate(summary.latency)],
    ]


def _flops(flops: int) -> str:
    return f"{flops / 1e9:,.2f} GFLOPs" if flops >= 1e8 else f"{flops / 1e6:,.2f} MFLOPs"


def _latency(num_images: int, summary: Summary) -> str:
    seconds, device = summary.latency[num_images], "CPU" if summary.device == "cpu" else "GPU"
    images = count(num_images, "image")
    if seconds is None:
        return f"{images}: too slow to measure, or too large for this {device}"
    rate = three_digits(num_images / seconds)
    return f"{three_digits(seconds * 1000)} ms for {images}, {rate} a second, on this {device}"
