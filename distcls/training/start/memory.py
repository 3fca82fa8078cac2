"""Estimates how much memory a step needs, from its weights and layers, and how much there is."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import nn

from distcls.cluster.machine import memory_size
from distcls.cluster.processes import Processes
from distcls.config.batch_sizes import divisors
from distcls.config.settings import Config
from distcls.models.layers import without_numbers
from distcls.models.recomputation import blocks_of
from distcls.optim.build import momenta_per_weight
from distcls.plan.randomness import global_state_kept
from distcls.runs.resolution import weights_dtype


class Memory(NamedTuple):
    """Bytes on each device: a fixed part, and what each image of a micro-batch adds."""

    weights: int
    per_image: int

    def of_step(self, micro_batch_size: int) -> int:
        """Return the bytes of one step."""
        return self.weights + self.per_image * micro_batch_size


def estimate_memory(config: Config, module: nn.Module, image_size: int) -> Memory | None:
    """Return the memory for weights, gradients, optimizer and averages, and for the activations of an image.

    Activations are counted by passing one image through a copy of the model and adding up its layers' outputs, which
    is about what the backward pass keeps; with train.checkpoint_activations, it keeps those inside one block at a time,
    and with model.head_only those of the head.
    The copy has shapes but no numbers, so it costs nothing; None for a model that cannot run like that.
    """
    itemsize = weights_dtype(config.train.precision).itemsize
    activation_itemsize = 2 if config.train.precision in ("bf16", "fp16") else itemsize
    copies = (
        2
        + momenta_per_weight(config.optim)
        + (config.train.ema_decay is not None)
        + (config.optim.lookahead is not None)
    )
    blocks = blocks_of(module) if config.train.checkpoint_activations else {}
    outputs = _count_outputs(module, image_size, blocks, config.model.head_only)
    if outputs is None:
        return None
    return Memory(sum(p.numel() for p in module.parameters()) * itemsize * copies, outputs * activation_itemsize)


def _count_outputs(module: nn.Module, image_size: int, blocks: Collection[str], only_trained: bool) -> int | None:
    """Return how many numbers the layers output for one image; of those in `blocks`, one block's at a time."""
    outputs, inside = [0], {block: [0] for block in blocks}
    try:
        shapes = without_numbers(module)
        for name, layer in shapes.named_modules():
            is_trained = any(parameter.requires_grad for parameter in layer.parameters())
            if (not list(layer.children()) or name in inside) and (is_trained or not only_trained):
                block = next((block for block in blocks if name.startswith(f"{block}.")), None)
                counts = outputs if block is None else inside[block]
                layer.register_forward_hook(lambda _, __, out, counts=counts: counts.append(_numbers_in(out)))
        images = torch.zeros(1, 3, image_size, image_size, device="meta", dtype=next(shapes.parameters()).dtype)
        with torch.inference_mode(), global_state_kept():
            shapes.eval()(images)
    except Exception:  # a user's model may do anything; training reports what is wrong with it
        return None
    return sum(outputs) + max(map(sum, inside.values()), default=0)


def _numbers_in(output: object) -> int:
    return output.numel() if isinstance(output, torch.Tensor) else 0


def memory_for_each_process(processes: Processes) -> int | None:
    """Return the bytes of this process's GPU, or its share of the machine's memory; None if unknown."""
    if processes.device.type == "cuda":
        return torch.cuda.get_device_properties(processes.device).total_memory
    if processes.device.type == "cpu":
        return memory_size()[1] // processes.local_world_size
    return None


def largest_that_fits(memory: Memory, micro_batch_size: int, limit: int) -> int | None:
    """Return the largest divisor of a micro-batch size whose step takes less than the limit; None if none does."""
    sizes = reversed(divisors(micro_batch_size))
    return next((size for size in sizes if memory.of_step(size) < limit), None)
