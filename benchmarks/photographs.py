"""Images per second from full-size photographs to normalized 224-pixel crops, against torchvision's usual pipeline.

torchvision: ImageFolder, RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize, DataLoader. distcls: the same
crops and flips of the same files, and of a cache that was decoded once to --decode-size. Each side has the same
Pillow, the same number of workers and one thread in the main process. Nothing is trained.

    python benchmarks/photographs.py --data DIR                    # DIR/CLASS/*.jpg
    python benchmarks/photographs.py --data DIR --quick
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from side_by_side import alternate, conditions, ratio

from distcls.config.settings import AugmentConfig, DataConfig, NormalizeConfig, RandomResizedCropConfig
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.build import OneProcess, build_data
from distcls.data.loading.loader import train_batches
from distcls.data.split import Split
from distcls.plan.batches import BatchPlan

CPU = torch.device("cpu")
MANY_STEPS = 10**6
"""Length of the plan; the measurement ends long before."""


def torchvision_side(root: Path, size: int, batch: int, workers: int) -> Iterator[None]:
    """What most training scripts do."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor

    normalize = NormalizeConfig()
    transform = Compose(
        [RandomResizedCrop(size), RandomHorizontalFlip(), ToTensor(), Normalize(normalize.mean, normalize.std)]
    )
    dataset = ImageFolder(str(root), transform)
    loader = torch.utils.data.DataLoader(
        dataset, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    while True:
        for _ in loader:
            yield


def distcls_side(split: Split, size: int, batch: int, workers: int) -> Iterator[None]:
    """The batches of a run, up to what enters the model."""
    plan = BatchPlan(len(split), batch, batch, MANY_STEPS, seed=0)
    config = AugmentConfig(random_resized_crop=RandomResizedCropConfig(), flip=True)
    augment = Augmentation(Normalize.build(NormalizeConfig(), CPU, torch.float32, True), 2, size)
    for (micro_batch,) in train_batches(split, plan, config, CPU, workers, start=0):
        augment(micro_batch)
        yield


def repeated(root: Path, folder: Path, count: int) -> Path:
    """The photographs under root as `count` files, by symbolic links, all in classes as they are."""
    files = sorted(file for file in root.glob("*/*") if file.is_file())
    for i in range(count):
        file = files[i % len(files)]
        link = folder / file.parent.name / f"{i:06}{file.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return folder


def train_split(root: Path, cache_dir: Path, size: int, **settings: Any) -> Split:
    """All images of the folder, as training sees them."""
    config = DataConfig(
        name="folder", root=str(root), image_size=size, val_fraction=0, test_fraction=0, cache="0",
        cache_dir=str(cache_dir), **settings,
    )  # fmt: skip
    return build_data(config, OneProcess(), crop=RandomResizedCropConfig()).train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="photographs, DIR/CLASS/*.jpg")
    parser.add_argument("--images", type=int, default=2000, help="they are repeated to so many files")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--decode-size", type=int, default=256, help="of the cache")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="timed batches of a side in each turn")
    parser.add_argument("--quick", action="store_true", help="few images and turns, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.images, options.turns, options.steps = 400, 2, 5
    torch.set_num_threads(1)
    print(conditions())
    with tempfile.TemporaryDirectory() as folder:
        root = repeated(options.data, Path(folder, "photographs"), options.images)
        cache_dir = Path(folder, "cache")
        cached = train_split(root, cache_dir, options.size, decode_size=options.decode_size, disk_cache="1 TB")
        shape = options.size, options.batch, options.workers
        sides = {
            "torchvision": torchvision_side(root, *shape),
            "distcls, files": distcls_side(train_split(root, cache_dir, options.size), *shape),
            f"distcls, decoded to {options.decode_size}": distcls_side(cached, *shape),
        }
        # What the workers have prefetched while the others ran is not timed: two batches of each.
        timings = alternate(sides, options.turns, options.steps, lead_in=2 * options.workers + 1)
    usual = timings["torchvision"].wall
    print(
        f"{options.images} photographs to {options.size} pixels, batches of {options.batch}, {options.workers} workers"
    )
    for name, seconds in timings.items():
        middle, low, high = ratio(usual, seconds.wall)
        rate = options.batch / statistics.median(seconds.wall)
        print(f"{name:<24} {rate:8,.0f} images/s   {middle:5.2f}x ({low:.2f} to {high:.2f}) torchvision")
    sys.stdout.flush()
    os._exit(0)  # without waiting for the workers of endless loaders


if __name__ == "__main__":
    main()
