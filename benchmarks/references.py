"""Seconds of an epoch beside timm's train.py and torchvision's reference script: the same network, images and batches.

All sides train resnet18 in float32 on JPEG files, with random resized crops and flips, SGD and two loader workers.
They measure a hundred test images once at the end, torchvision's script after every epoch. Each runs in a process of
its own, and they take turns. The seconds of an epoch come from the difference between a run of several epochs and one
of a single epoch, so that no side's start counts. distcls runs twice: as it is, with decoded images in memory, and with
data.cache=0, which reads the files in each epoch as the others do.

    git clone https://github.com/huggingface/pytorch-image-models /tmp/timm      # measured with aa4b585
    git clone https://github.com/pytorch/vision /tmp/vision                      # measured with c4c28df
    python benchmarks/references.py --timm /tmp/timm --torchvision /tmp/vision
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from side_by_side import cifar_folder, conditions, output_of, ratio

MODEL = "resnet18"
BATCH = 128
DISTCLS, FROM_FILES = "distcls", "distcls, data.cache=0"


def some_of(data: Path, folder: Path, counts: dict[str, int]) -> Path:
    """Copy the first images of each class into folder/train and folder/val, counts in all; return the folder."""
    for split, count in counts.items():
        classes = sorted(path for path in (data / ("test" if split == "val" else split)).iterdir() if path.is_dir())
        for source in classes:
            (folder / split / source.name).mkdir(parents=True)
            for file in sorted(source.iterdir())[: count // len(classes)]:
                shutil.copy(file, folder / split / source.name)
    return folder


def seconds_of(words: list[str], cwd: Path) -> float:
    """How long a Python command takes."""
    started = time.perf_counter()
    output_of([sys.executable, *words], cwd)
    return time.perf_counter() - started


def distcls(cache: str, data: Path, size: int, epochs: int, folder: Path) -> float:
    """Seconds of `distcls train`. cache: of data.cache; with 0 it reads the files in each epoch, like the others."""
    words = ["-m", "distcls", "train", "--data", str(data), "--preset", "none", f"model.name=torchvision/{MODEL}"]
    settings = {
        "data.image_size": size,
        "data.test_fraction": 0,  # train on all images, as the others do
        "data.workers": 2,
        "data.cache": cache,
        "augment.random_resized_crop": "{}",
        "augment.flip": "true",
        "optim.name": "sgd",
        "optim.lr": 0.05,
        "train.num_epochs": epochs,
        "train.global_batch_size": BATCH,
        "train.eval_every": "100%",
        "train.precision": "float32",
        "run.dir": folder / f"distcls-{time.monotonic_ns()}",
        "run.device": "cpu",
        "run.trackers": "[]",
    }
    return seconds_of([*words, *(f"{name}={value}" for name, value in settings.items())], folder)


def timm_train(checkout: Path, data: Path, size: int, epochs: int, folder: Path) -> float:
    """Seconds of timm's train.py."""
    words = [str(checkout / "train.py"), str(data), "--train-split", "train", "--val-split", "val", "--device", "cpu"]
    words += ["--model", MODEL, "--num-classes", "10", "--input-size", "3", str(size), str(size), "-b", str(BATCH)]
    words += ["--opt", "sgd", "--lr", "0.05", "--epochs", str(epochs), "--warmup-epochs", "0", "--cooldown-epochs", "0"]
    words += ["--color-jitter", "0", "--smoothing", "0", "--workers", "2", "--val-interval", str(epochs)]
    return seconds_of([*words, "--output", str(folder), "--experiment", f"timm-{time.monotonic_ns()}"], folder)


def torchvision_train(checkout: Path, data: Path, size: int, epochs: int, folder: Path) -> float:
    """Seconds of torchvision's references/classification/train.py."""
    script = checkout / "references" / "classification" / "train.py"
    words = [str(script), "--data-path", str(data), "--model", MODEL, "--device", "cpu", "--batch-size", str(BATCH)]
    words += ["--epochs", str(epochs), "--workers", "2", "--lr", "0.05", "--train-crop-size", str(size)]
    words += ["--val-crop-size", str(size), "--val-resize-size", str(size), "--print-freq", "1000"]
    return seconds_of([*words, "--output-dir", str(folder / "torchvision")], folder)


def main() -> None:
    """Run the sides in turns, and print the seconds of an epoch, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", type=Path, metavar="CHECKOUT")
    parser.add_argument("--torchvision", type=Path, metavar="CHECKOUT")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--size", type=int, default=64, help="pixels along a side of the images that the network sees")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print(conditions())
    sides: dict[str, Callable[[int, Path], float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = some_of(cifar_folder(options.data), folder / "data", {"train": options.images, "val": 100})
        for side, cache in ((DISTCLS, "4 GB"), (FROM_FILES, "0")):
            sides[side] = partial(distcls, cache, data, options.size)
        for peer, checkout, train in (
            ("timm's train.py", options.timm, timm_train),
            ("torchvision's train.py", options.torchvision, torchvision_train),
        ):
            if checkout is not None:
                sides[peer] = partial(train, checkout.resolve(), data, options.size)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(options.turns):
            for side, train in sides.items():
                one, several = train(1, folder), train(options.epochs, folder)
                seconds[side].append((several - one) / (options.epochs - 1))
                print(
                    f"turn {turn + 1}  {side:24} {seconds[side][-1]:6.2f} s an epoch of {options.images:,} images, "
                    f"{options.images / seconds[side][-1]:,.0f} images/s; whole command, one epoch: {one:.1f} s",
                    flush=True,
                )
    for own in (DISTCLS, FROM_FILES):
        for side in [side for side in sides if side not in (DISTCLS, FROM_FILES)]:
            middle, low, high = ratio(seconds[side], seconds[own])
            print(f"{own}: {middle:.2f}x the images/s of {side} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
