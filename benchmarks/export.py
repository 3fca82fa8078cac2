"""What an exported ONNX file and its int8 version cost and gain: size, accuracy on test, latency of one image.

Trains each network for a few epochs on CIFAR-10 (or takes finished runs), exports it twice, and measures every test
image with PyTorch, the float32 file and the int8 file. Latency is taken in turns, in one process, on one thread each.

    python benchmarks/export.py                        # cnn2 and resnet9, 3 epochs each
    python benchmarks/export.py --run runs/mine        # a run of your own, on its own test images
    python benchmarks/export.py --quick
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from side_by_side import alternate, cifar_folder, conditions, ratio

import distcls
from distcls.cli import main as distcls_command
from distcls.config.loading import read_config
from distcls.data.build import OneProcess, build_data
from distcls.data.split import Split
from distcls.export.portable import Portable
from distcls.export.proof import Outputs, in_batches
from distcls.inference.classifier import load_classifier

BATCH = 100
TARGET_LOSS = 0.5
"""Points of accuracy that int8 may cost."""


def train(name: str, data: Path, epochs: float, folder: Path) -> Path:
    """The folder of a run of this network."""
    settings = {
        "model.name": name,
        "train.num_steps": round(epochs * 390),
        "train.num_epochs": None,
        "run.dir": str(folder / name),
        "run.trackers": [],
        "train.precision": "float32",
        "augment.flip": True,
    }
    return distcls.train(data=data, overrides=settings).dir


def session(file: Path) -> Outputs:
    """A function from images to outputs, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    running = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(running.run(None, {"images": images})[0])


def test_split(run: Path) -> Split:
    """The run's test images."""
    data = build_data(read_config(run / "config.yaml").data, OneProcess())
    assert data.test is not None
    return data.test


def accuracy(outputs: Outputs, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of right answers."""
    return float((in_batches(outputs, images, BATCH).argmax(1) == labels).mean())


def one_by_one(outputs: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> Iterator[None]:
    """Compute one image after the other, for ever."""
    while True:
        for image in images:
            outputs(image[None])
            yield


def measure(run: Path, turns: int, steps: int) -> None:
    """Print a run's table."""
    for options in ([], ["--int8"]):
        assert distcls_command(["export", str(run), *options]) == 0
    files = {"onnx": run / "export" / f"{run.name}.onnx", "onnx int8": run / "export" / f"{run.name}-int8.onnx"}
    portable = Portable(load_classifier(run, read_config(run / "config.yaml"))).eval()
    sides: dict[str, Outputs] = {"PyTorch": portable.predict, **{name: session(file) for name, file in files.items()}}
    split = test_split(run)
    images = np.stack([split.image(i) for i in range(len(split))])
    right = {name: accuracy(outputs, images, split.labels) for name, outputs in sides.items()}
    loops = {name: one_by_one(outputs, images[:BATCH]) for name, outputs in sides.items()}
    timings = alternate(loops, turns, steps, lead_in=steps // 4)
    sizes = {"PyTorch": portable.num_bytes(), **{name: file.stat().st_size for name, file in files.items()}}
    print(f"\n{run}, {len(images):,} test images")
    print(f"{'':12}{'MB':>8}{'accuracy':>10}{'ms':>8}{'cpu ms':>8}   PyTorch's time / this (quartiles)")
    for name in sides:
        wall, cpu = (statistics.median(seconds) * 1e3 for seconds in (timings[name].wall, timings[name].cpu))
        faster = "{:.2f} ({:.2f} to {:.2f})".format(*ratio(timings["PyTorch"].wall, timings[name].wall))
        print(f"{name:12}{sizes[name] / 1e6:>8.2f}{right[name]:>10.4f}{wall:>8.3f}{cpu:>8.3f}   {faster}")
    loss = 100 * (right["PyTorch"] - right["onnx int8"])
    print(f"int8 loses {loss:.2f} points (target: <= {TARGET_LOSS})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument(
        "--run", type=Path, action="append", help="a finished run with test images, instead of training"
    )
    parser.add_argument("--models", nargs="*", default=["cnn2", "resnet9"])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a twentieth of an epoch, and three turns")
    options = parser.parse_args()
    epochs, turns, steps = (0.05, 3, 20) if options.quick else (options.epochs, options.turns, 100)
    torch.set_num_threads(1)
    print(conditions())
    with tempfile.TemporaryDirectory() as folder:
        runs = options.run or [train(name, cifar_folder(options.data), epochs, Path(folder)) for name in options.models]
        for run in runs:
            measure(run, turns, steps)


if __name__ == "__main__":
    main()
