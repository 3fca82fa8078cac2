"""Computes what a frozen network makes of each image, once, so that training its head takes seconds.

The images are cut into evaluation batches of a fixed size, so the features are the same on any number of processes.
Which of them are for training and which for val makes no difference, so the folds of a cross-validation share them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.data.cache.arrays import Arrays, open_arrays
from distcls.data.cache.folder import cache_folder
from distcls.data.cache.store import entry_path, read_entry
from distcls.data.decoding.decode import DECODER
from distcls.data.loading.loader import eval_batches
from distcls.data.sources.image_set import digest
from distcls.data.split import Data, Split
from distcls.errors import DiskError
from distcls.inference.classifier import Classifier
from distcls.models.head import head_parameters

TITLE = "features"


def with_features(
    data: Data, classifier: Classifier, config: Config, processes: Processes, progress: Callable[[int, int], None]
) -> Data:
    """Return the data with features (n, F) in place of the pixels of train and val. All processes call it.

    They are kept in the cache, so another run of the same network on the same images need not compute them.
    """
    splits = [split for split in (data.train, data.val) if split is not None]
    pools = _pools(splits)
    folder = cache_folder(config.data)
    key = processes.from_main(lambda: _key(data, pools, classifier, config))
    features: dict[str, np.ndarray] = {}
    if not all(processes.from_all(read_entry(entry_path(folder, f"{TITLE}-{key}")) is not None)):
        total = sum(map(len, pools))
        for pool in pools:
            report = functools.partial(_report, progress, sum(map(len, features.values())), total)
            features[pool.name] = _compute(pool, classifier, config, processes, report)
    dtype = np.float64 if config.train.precision == "float64" else np.float32
    if processes.is_local_main:
        _open(folder, key, pools, features, dtype)
    processes.wait_for_everyone()
    kept = _open(folder, key, pools, {}, dtype)
    train, *val = [_feature_split(split, pools, kept) for split in splits]
    return dataclasses.replace(data, train=train, val=val[0] if val else None)


def _pools(splits: list[Split]) -> list[Split]:
    """Return a split for each image set, with the images of all these splits that come from it, in its order."""
    pools: dict[int, Split] = {}
    for split in splits:
        pool = pools.setdefault(id(split.image_set), split)
        rows = np.union1d(pool.rows, split.rows)
        pools[id(split.image_set)] = dataclasses.replace(pool, rows=rows, labels=split.image_set.labels[rows])
    return list(pools.values())


def _report(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _compute(
    split: Split, classifier: Classifier, config: Config, processes: Processes, progress: Callable[[int], None]
) -> np.ndarray:
    """Return the features of a split, (n, F), on one process per machine; the others map what that one writes.

    Rank r computes batches r, r + W, r + 2W …
    """
    size, world_size = config.train.eval_batch_size, processes.world_size
    batches = eval_batches(split, size, processes.device, config.data.workers, processes.rank, world_size)
    parts: list[np.ndarray] = []
    for first in range(0, len(split), size * world_size):
        batch = next(batches, None)  # in the last round, some ranks have none
        received = processes.from_all(None if batch is None else _features(classifier, batch[1]))
        if processes.is_local_main:
            parts += [part for part in received if part is not None]
        progress(min(first + size * world_size, len(split)))
    return np.concatenate(parts) if parts else np.empty((len(split), 0))


def _open(
    folder: Path, key: str, splits: list[Split], features: dict[str, np.ndarray], dtype: type
) -> dict[str, np.ndarray]:
    """Return the features in the cache, after adding them if they are not there.

    features: none where they were not computed. Raises DiskError if they are not in the cache either.
    """

    def computed() -> list[Arrays]:
        if not features:
            raise DiskError(f"the features are gone from {folder}: something removed them. Run the same command again.")
        names = splits[0].image_set.class_names
        return [Arrays(s.name, names, s.labels, np.ascontiguousarray(features[s.name]).view(np.uint8)) for s in splits]

    opened = open_arrays(folder, TITLE, key, computed)
    return {name: of_split.images.view(dtype) for name, of_split in opened.items()}


def _feature_split(split: Split, pools: list[Split], features: dict[str, np.ndarray]) -> Split:
    pool = next(pool for pool in pools if pool.image_set is split.image_set)
    rows = np.searchsorted(pool.rows, split.rows)
    return dataclasses.replace(split, rows=rows, pixels=features[pool.name], in_memory=True, random_crop=None)


def _key(data: Data, pools: list[Split], classifier: Classifier, config: Config) -> str:
    """Return a digest of everything that the features depend on.

    The features of the first batch are part of it, because they also depend on the code of the network and on the
    processor.
    """
    head = head_parameters(classifier.network, len(classifier.class_names))
    weights = hashlib.sha256()
    for name, tensor in classifier.network.state_dict().items():
        if name not in head:
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    computed = (classifier.device.type, torch.get_num_threads(), torch.__version__)
    described = (
        computed,
        config.augment.normalize,
        config.train.precision,
        config.train.eval_batch_size,
        data.decoding,
        DECODER,
    )
    first = next(eval_batches(pools[0], config.train.eval_batch_size, classifier.device, workers=0))
    return digest(
        [],
        *(one.encode() for one in data.set_fingerprints),
        *(pool.rows for pool in pools),
        weights.digest(),
        repr(described).encode(),
        _features(classifier, first[1]),
    )


def _features(classifier: Classifier, pixels: torch.Tensor) -> np.ndarray:
    """Return float32 (n, F), or float64 in that precision."""
    with torch.inference_mode():
        features = classifier.eval().features(pixels)
    return features.to(classifier.temperature.dtype).cpu().numpy()
