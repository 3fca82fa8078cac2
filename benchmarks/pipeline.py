"""Images per second of the in-memory pipeline alone: gather, pad and crop, flip, normalize; no model.

The sides, in turns: distcls; torchvision's transforms for single images in a DataLoader with two workers, as its
references have it; and, where a copy of it is given, the whole-batch loader of KellerJordan/cifar10-airbench on the
CPU. That one augments a whole epoch at once in half precision, so a turn is a whole epoch of it.

    python benchmarks/pipeline.py
    git clone https://github.com/KellerJordan/cifar10-airbench /tmp/airbench
    python benchmarks/pipeline.py --airbench /tmp/airbench/airbench/utils.py
    python benchmarks/pipeline.py --quick
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from side_by_side import alternate, cifar_folder, conditions, ratio
from train_loop import InMemory

from distcls.cluster.processes import Processes
from distcls.config.loading import load_config
from distcls.config.settings import AugmentConfig, Config, NormalizeConfig
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.build import build_data
from distcls.data.loading.loader import train_batches
from distcls.data.split import Data
from distcls.plan.batches import plan_batches

PAD = 4
NORMALIZE = NormalizeConfig([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
USUAL = AugmentConfig(pad_crop=PAD, flip=True, normalize=NORMALIZE)
EVERYTHING = AugmentConfig(
    pad_crop=PAD, flip="alternating", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, erase=0.25, cutout=0.25,
    mixup=0.2, cutmix=1.0, normalize=NORMALIZE,
)  # fmt: skip


def distcls_side(config: Config, data: Data, augment: AugmentConfig) -> Iterator[None]:
    """What a step of training takes before its forward pass: the same two calls as loop.py and step.py."""
    plan = plan_batches(config.train, len(data.train))
    apply = Augmentation(Normalize.build(NORMALIZE, torch.device("cpu"), torch.float32, True), len(data.class_names))
    for micro_batches in train_batches(data.train, plan, augment, torch.device("cpu"), workers=0, start=0):
        for micro_batch in micro_batches:
            apply(micro_batch)
            yield


def torchvision_side(pixels: np.ndarray, labels: np.ndarray, batch: int) -> Iterator[None]:
    """Images in memory, made into PIL images and transformed one by one in two worker processes."""
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(pixels.shape[1], padding=PAD, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(NORMALIZE.mean, NORMALIZE.std),
        ]
    )
    images = InMemory(pixels, labels, transform)
    loader = torch.utils.data.DataLoader(
        images, batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    while True:
        yield from (None for _ in loader)


def airbench_side(source: Path, pixels: np.ndarray, labels: np.ndarray, batch: int) -> Iterator[None]:
    """CifarLoader of the file `airbench/utils.py`, on the CPU, with the same images."""
    spec = importlib.util.spec_from_file_location("airbench_utils", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images = {"images": torch.from_numpy(pixels), "labels": torch.from_numpy(labels), "classes": list("0123456789")}
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(torch, "load", lambda *_, **__: images):
        (Path(folder) / "train.pt").touch()  # which it would load to a GPU
        loader = module.CifarLoader(
            folder, train=True, batch_size=batch, aug={"flip": True, "translate": PAD}, altflip=True
        )
    while True:
        yield from (None for _ in loader)


def main() -> None:
    """Print images per second of each side, and how many times faster distcls is, turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 as JPEGs, DIR/train/CLASS/*.jpg")
    parser.add_argument("--airbench", type=Path, help="airbench/utils.py of a copy of KellerJordan/cifar10-airbench")
    parser.add_argument("--batch", type=int, default=512, help="images in a batch")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads, in this process")
    parser.add_argument("--turns", type=int, default=7, help="how often the sides take turns")
    parser.add_argument("--quick", action="store_true", help="two turns")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(conditions())

    config = load_config(
        None,
        [
            "data.name=folder", f"data.root={cifar_folder(options.data)}", f"train.global_batch_size={options.batch}",
            "train.num_steps=1000000",
        ],
    )  # fmt: skip
    data = build_data(config.data, Processes("cpu"))
    assert data.train.pixels is not None
    pixels, labels = np.array(data.train.pixels[data.train.rows]), data.train.labels
    sides = {
        "distcls": distcls_side(config, data, USUAL),
        "distcls, everything on": distcls_side(config, data, EVERYTHING),
        "torchvision, two workers": torchvision_side(pixels, labels, options.batch),
    }
    if options.airbench:
        sides["airbench's loader"] = airbench_side(options.airbench, pixels, labels, options.batch)
    else:
        print("airbench's loader is left out: give --airbench FILE, see --help")
    epoch = len(labels) // options.batch
    for side in sides.values():  # starts workers, and does what is done once
        for _ in itertools.islice(side, 3):
            pass
    timings = alternate(sides, 2 if options.quick else options.turns, epoch, lead_in=6)
    for name, seconds in timings.items():
        rate = options.batch / statistics.median(seconds.wall)
        faster, low, high = ratio(seconds.wall, timings["distcls"].wall)
        processor = 1e6 * statistics.median(seconds.cpu) / options.batch
        print(
            f"{name:26} {rate:9,.0f} images/s, {processor:6.2f} µs of processor time per image in this process; "
            f"distcls is {faster:.2f}× as fast ({low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
