"""Chooses what train.precision=auto means on a CPU that computes in bf16: it times steps of the run's own network.

The choice is kept in the cache folder, so that runs with the same network, image size and batch compute alike,
whatever their seed or learning rate. So other programs must not affect it: one thread computes, and its processor time
is measured. Beside two busy programs the ratios were those of a quiet machine, while by the clock a network that is 3
times as fast in bf16 seemed no faster.

bf16 is not always faster: before their backward pass was mended (models/depthwise.py), depthwise convolutions took
twice as long in it, and other kernels may.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from distcls.cluster.cpu import cpu_flags, cpu_name, max_isa
from distcls.config.settings import Config
from distcls.data.cache.folder import cache_folder
from distcls.data.decoding.native_size import choose_decoding
from distcls.data.sources.image_set import ImageSet
from distcls.files.atomic import write_text
from distcls.models.build import build_model
from distcls.models.depthwise import speed_up_depthwise
from distcls.plan.randomness import global_state_kept

KERNELS = 2
"""Raised when distcls computes in other ways, so that choices that were made before are made again."""

LEAST_GAIN = 1.1
"""How many times as fast bf16 must be: a smaller gain is noise, and does not pay for its rounding."""

PIXELS, FEWEST = 2**16, 4
"""Of a timed step: 64 images of 32 pixels, and 4 of 224. With more the ratio is much the same."""

ROUNDS = 3
SECONDS = 3.0
"""Once the timed steps have taken so long, there are no more rounds."""


def faster_precision(config: Config, train: ImageSet) -> str:
    """Return "bf16" if a training step of this network is clearly faster in it on this CPU, otherwise "float32".

    train: the training images, for the shape of a batch.
    """
    if config.model.head_only:  # its steps are those of one layer
        return "float32"
    image_size = choose_decoding(config.data, train).image_size
    assert image_size is not None
    wanted = config.train.micro_batch_size or config.train.global_batch_size
    num_images = min(wanted, max(PIXELS // image_size**2, FEWEST))
    num_classes = len(train.class_names)
    kept = _kept(config, num_images, image_size, num_classes)
    is_ours = ":" not in config.model.name  # people's own networks change
    with contextlib.suppress(OSError, ValueError):
        if is_ours and (choice := kept.read_text()) in ("bf16", "float32"):
            return choice
    layout = torch.channels_last if config.model.channels_last else torch.contiguous_format
    choice = "float32"
    # Whatever is wrong with the network is reported where it is built for training.
    with contextlib.suppress(Exception), global_state_kept():
        network = build_model(config.model, num_classes, image_size).train()
        speed_up_depthwise(network)
        images = torch.randn(num_images, 3, image_size, image_size).contiguous(memory_format=layout)
        if _gain_of_bf16(network, images) > LEAST_GAIN:
            choice = "bf16"
        if is_ours:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, choice, durable=False)
    return choice


def _kept(config: Config, num_images: int, image_size: int, num_classes: int) -> Path:
    """Return the file for the choice: its name changes with everything that the choice depends on."""
    machine = (cpu_name(), sorted(cpu_flags()), max_isa(), torch.__version__)
    described = repr((KERNELS, config.model, num_images, image_size, num_classes, machine))
    return cache_folder(config.data) / "precision" / hashlib.sha256(described.encode()).hexdigest()


def _gain_of_bf16(network: nn.Module, images: torch.Tensor) -> float:
    """Return how many times as fast a step is in bf16 as in float32."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _step_seconds(network, images, in_bf16=False)  # the first steps also choose kernels and get memory
        _step_seconds(network, images, in_bf16=True)
        start, taken = time.perf_counter(), {False: math.inf, True: math.inf}
        for _ in range(ROUNDS):
            for in_bf16 in taken:
                taken[in_bf16] = min(taken[in_bf16], _step_seconds(network, images, in_bf16))
            if time.perf_counter() - start > SECONDS:
                break
        return taken[False] / taken[True]
    finally:
        torch.set_num_threads(threads)


def _step_seconds(network: nn.Module, images: torch.Tensor, in_bf16: bool) -> float:
    """Return the processor time of a forward and a backward pass."""
    network.zero_grad()
    start = time.thread_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        logits = network(images)
    functional.cross_entropy(logits.float(), torch.zeros(len(images), dtype=torch.int64)).backward()
    return time.thread_time() - start
