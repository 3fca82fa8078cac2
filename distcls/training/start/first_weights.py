"""Gives the network its first weights beyond those that it draws: from the training images, or from files."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from distcls.config.settings import Config
from distcls.config.wording import for_another_run
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.split import Data
from distcls.errors import UsageError
from distcls.models.init_from import InitFrom, find_source, init_from
from distcls.models.weights import load_weights
from distcls.runs.folder import RunFolder
from distcls.runs.resolution import weights_dtype
from distcls.runs.status import read_object

START = "start_from_images"
"""The method of a network whose first weights depend on the training images."""

NUM_IMAGES = 5000
NUM_PIXELS = 2**23
"""Fewer images are taken if they are large."""


def load_first_weights(module: nn.Module, config: Config, data: Data, run: RunFolder) -> None:
    """Set weights that depend on the training images, then load initial ones; the same in all processes of the run.

    Only the main process computes and reads them: others may have another processor, an older file, or none.
    """
    starts_from_images, starts_trained = hasattr(module, START), config.model.starts_trained
    if not (starts_from_images or starts_trained):
        return

    def load() -> tuple[InitFrom | None, dict[str, torch.Tensor]]:
        if starts_from_images:
            getattr(module, START)(some_images(data, config))
        return _load(module, config, data, run) if starts_trained else None, module.state_dict()

    done, tensors = run.processes.from_main(load)
    load_weights(module, tensors)
    if done is None:
        return
    for line in done.notes:
        run.progress.note(line)
    for line in done.warnings:
        run.progress.warning(line)


def some_images(data: Data, config: Config) -> torch.Tensor:
    """Return images from all over the training split, as the network sees them in an evaluation: (n, 3, S, S)."""
    count = min(len(data.train), NUM_IMAGES, math.ceil(NUM_PIXELS / data.image_size**2))
    places = np.linspace(0, len(data.train) - 1, count).astype(int)
    pixels = torch.from_numpy(np.stack([data.train.whole_image(int(i), data.decoding) for i in places]))
    cpu, dtype = torch.device("cpu"), weights_dtype(config.train.precision)
    return Normalize.build(config.augment.normalize, cpu, dtype, config.model.channels_last)(pixels)


def _load(module: nn.Module, config: Config, data: Data, run: RunFolder) -> InitFrom:
    source = find_source(config.model)
    assert source is not None
    now, before = source.describe(), read_object(run.dir / "weights.json")  # of a start that made no checkpoint
    is_same_file = all(before.get(key) == now[key] for key in ("setting", "weights", "file"))
    if is_same_file and before["sha256"] != now["sha256"]:
        raise UsageError(
            f"{source.setting}: {source.title} has changed since this run first started. Its SHA-256 was "
            f"{before['sha256']} and is {now['sha256']}. Restore it, or {for_another_run(config.run.dir)}"
        )
    done = init_from(module, source, config.model, data.class_names, data.image_size)
    run.write_json("weights.json", now)
    return done
