"""One evaluation on real processes, whose metrics are written down by each: for tests of the evaluator."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ranks import SERVER, free_port, rank_environment
from torch import nn
from variants import variant

NUM_CLASSES = 7


def predict(classifier: Any, images: Any) -> torch.Tensor:
    """Probabilities (n, C), on the CPU, for uint8 images (S, S, 3)."""
    with torch.inference_mode():
        return classifier(torch.from_numpy(np.stack(images)).to(classifier.device)).cpu()


def make_split(num_images: int) -> Any:
    from distcls.data.decoding.decode import Decoding
    from distcls.data.sources.image_set import ArraySet
    from distcls.data.split import Split

    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (num_images, 4, 4, 3)).astype(np.uint8)
    names, labels = [f"c{i}" for i in range(NUM_CLASSES)], draw.integers(0, NUM_CLASSES, num_images)
    image_set = ArraySet("made", names, labels, images)
    return Split("val", image_set, np.arange(num_images), image_set.labels, images, Decoding(4))


def make_evaluator(processes: Any, batch_size: int) -> Any:
    from distcls.inference.evaluator import Evaluator

    return Evaluator(variant(train__eval_batch_size=batch_size, data__workers=0), processes)


def make_module() -> Any:
    from distcls.data.decoding.decode import Decoding
    from distcls.inference.classifier import Classifier

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, NUM_CLASSES))
    names = [f"c{i}" for i in range(NUM_CLASSES)]
    return Classifier(network, variant(train__precision="float32", model__channels_last=False), names, Decoding(4))


def evaluate_as(rank: int, world_size: int, port: int, num_images: int, batch_size: int, path: str) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    os.environ.update(rank_environment(rank, world_size, port))
    from distcls.cluster.processes import Processes
    from distcls.inference import sums

    sums.PIECE = 16  # so that there are many
    with Processes("cpu") as processes:
        assert processes.world_size == world_size
        dist.all_gather = refuse  # type: ignore[assignment]
        metrics = make_evaluator(processes, batch_size)(make_module(), make_split(num_images))
    Path(path).write_bytes(pickle.dumps(metrics))


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("each process was sent a copy of the sums of every other")


def evaluate_on(world_size: int, num_images: int, batch_size: int, folder: Path) -> list[Any]:
    """The metrics that each process found."""
    if world_size == 1:
        processes = SimpleNamespace(device=torch.device("cpu"), rank=0, world_size=1, asked_to_stop=lambda: False)
        return [make_evaluator(processes, batch_size)(make_module(), make_split(num_images))]
    port, paths = free_port(), [folder / f"rank{rank}.pickle" for rank in range(world_size)]
    started = [
        SERVER.Process(target=evaluate_as, args=(rank, world_size, port, num_images, batch_size, str(path)))
        for rank, path in enumerate(paths)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(90)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0] * world_size
    return [pickle.loads(path.read_bytes()) for path in paths]
