"""Images per second of `distcls predict`, beside a loop of torchvision transforms, and beside its own two parts.

The sides, in turns, with the same network on the same files:
- `distcls predict RUN FOLDER --output FILE.csv`, called in this process, so that importing torch is left out;
- a loop that opens one image after the other, applies torchvision's transforms and the network, at batch size 1;
- decoding alone: the same decoder in one process per CPU, which do nothing else;
- the forward pass alone: the same batches, decoded before.

    python benchmarks/predict.py runs/cifar10 ~/cifar10/test --count 10000
    python benchmarks/predict.py runs/flowers photos --count 2000 --turns 3
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as `distcls predict` sets it before it imports torch

import torch
from PIL import Image
from side_by_side import conditions, ratio

from distcls.cli import main as distcls
from distcls.cluster.cpu import available_cpus
from distcls.config.loading import read_config
from distcls.data.decoding.decode import Decoding, decode
from distcls.data.loading.given_images import load_given
from distcls.data.sources.named_files import files_named
from distcls.inference.classifier import Classifier, load_classifier
from distcls.inference.prediction import BATCH_SIZE

PARTS = ("decoding alone", "forward alone")


def loop_side(classifier: Classifier, files: Sequence[str], config: object) -> Callable[[], object]:
    """What most scripts do."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    decoding, normalize = classifier.decoding, config.augment.normalize  # type: ignore[attr-defined]
    size = decoding.image_size or 0
    transform = Compose(
        [
            Resize(round(size / decoding.crop_fraction), InterpolationMode(decoding.interpolation)),
            CenterCrop(size),
            ToTensor(),
            Normalize(normalize.mean, normalize.std),
        ]
    )

    def loop() -> None:
        with torch.inference_mode():
            for file in files:
                image: Any = transform(Image.open(file).convert("RGB"))
                classifier.network(image[None]).softmax(1).max(1)

    return loop


def decode_all(files: Sequence[str], decoding: Decoding) -> None:
    """Decode files, and drop the pixels."""
    for file in files:
        decode(file, decoding)


def decoding_side(files: Sequence[str], decoding: Decoding) -> Callable[[], object]:
    """Decoding on all CPUs, without handing pixels to anyone."""
    count = available_cpus()

    def run() -> None:
        processes = [
            multiprocessing.get_context("fork").Process(target=decode_all, args=(files[i::count], decoding))
            for i in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    return run


def forward_side(classifier: Classifier, batches: list[torch.Tensor]) -> Callable[[], object]:
    """The forward pass, of batches in memory that are used again and again."""

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                classifier(batch).cpu()

    return run


def some_batches(classifier: Classifier, files: Sequence[str]) -> list[torch.Tensor]:
    """Return the pixels of a few batches, repeated to as many images as there are files."""
    loaded = load_given(files[: 8 * BATCH_SIZE], classifier.decoding, BATCH_SIZE, classifier.device, 0)
    repeated = itertools.cycle([batch.pixels for batch in loaded])
    return list(itertools.islice(repeated, len(files) // BATCH_SIZE))


def repeat(root: str, folder: Path, count: int) -> list[str]:
    """Make symbolic links to the images under root, `count` of them; return their paths."""
    files = files_named(root)
    for i in range(count):
        source = Path(files[i % len(files)])
        (folder / f"{i:06}{source.suffix}").symlink_to(source.resolve())
    return files_named(str(folder))


class Seconds(NamedTuple):
    """What something takes by the clock, and of processor time in this process and those that it started."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Seconds:
    """Do something once."""
    wall, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    return Seconds(time.perf_counter() - wall, sum(after[:4]) - sum(before[:4]))


def main() -> None:
    """Print images per second of each side, and the ratios within each turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("--count", type=int, default=10_000, help="images; those of the folder are repeated")
    parser.add_argument("--turns", type=int, default=5, help="how often the sides take turns")
    parser.add_argument("--workers", help="passed to distcls predict")
    options = parser.parse_args()
    print(conditions())

    config = read_config(options.run / "config.yaml")
    classifier = load_classifier(options.run, config)
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary, "images"), Path(temporary, "answers.csv")
        folder.mkdir()
        files = repeat(options.images, folder, options.count)
        words = ["predict", str(options.run), str(folder), "--output", str(output), "--device", "cpu"]
        words += [] if options.workers is None else ["--workers", options.workers]
        sides = {
            "distcls predict": lambda: distcls(words),
            "torchvision, batch size 1": loop_side(classifier, files, config),
            PARTS[0]: decoding_side(files, classifier.decoding),
            PARTS[1]: forward_side(classifier, some_batches(classifier, files)),
        }
        taken: dict[str, list[Seconds]] = {name: [] for name in sides}
        for _, (name, work) in itertools.product(range(options.turns), sides.items()):
            taken[name].append(timed(work))
        if len(output.read_text().splitlines()) != options.count + 1:
            raise SystemExit("not every image has a row")
    report(taken, options.count)


def report(taken: dict[str, list[Seconds]], count: int) -> None:
    """Print the rates and ratios."""
    for kind in Seconds._fields:
        print(
            f"\nby {'the clock' if kind == 'wall' else 'processor time, which other work on the machine hardly moves'}"
        )
        seconds = {name: [getattr(turn, kind) for turn in turns] for name, turns in taken.items()}
        ours = seconds["distcls predict"]
        for name, times in seconds.items():
            rate, (middle, low, high) = count / statistics.median(times), ratio(times, ours)
            print(f"{name:26} {rate:9,.0f} images/s; takes {middle:.2f}× as long as distcls ({low:.2f} to {high:.2f})")
        both = [decoding + forward for decoding, forward in zip(*(seconds[part] for part in PARTS), strict=True)]
        middle, low, high = ratio(both, ours)
        print(f"distcls predict reaches {middle:.2f} of 1 / (decoding + forward) ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
