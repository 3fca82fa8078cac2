"""Images per second of two processes with one thread each, beside one process with two threads.

Both sides are `distcls benchmark` on the same synthetic images and the same global batch; they take turns, and each
turn starts its processes anew.

    python benchmarks/world_size.py
    python benchmarks/world_size.py --models cnn2 --turns 9
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import conditions, output_of, ratio

ROOT = Path(__file__).resolve().parents[1]

SIDES = {
    1: ["-m", "distcls"],
    2: ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "distcls"],
}
"""How to start each number of processes."""


def images_per_second(world_size: int, model: str, options: argparse.Namespace) -> float:
    """Run `distcls benchmark` on this many processes, which share two threads."""
    settings = {
        "model.name": model,
        "data.name": "synthetic",
        "data.args": "{num_images: 10000, size: 32}",
        "augment.pad_crop": 4,
        "augment.flip": "true",
        "train.global_batch_size": options.batch,
        "train.num_threads": 2 // world_size,
        "train.precision": options.precision,
        "run.device": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speed.json"
        words = [*SIDES[world_size], "benchmark", "--steps", str(options.steps), "--seconds", "60", "--json", str(file)]
        output_of([sys.executable, *words, *(f"{name}={value}" for name, value in settings.items())], ROOT)
        found = json.loads(file.read_text())
    assert found["world_size"] == world_size
    return found["images_per_second"]


def main() -> None:
    """Measure each network on one and on two processes in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["cnn2", "resnet9"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    print(conditions())
    for model in options.models:
        found: dict[int, list[float]] = {world_size: [] for world_size in SIDES}
        for _ in range(options.turns):
            for world_size, speeds in found.items():
                speeds.append(images_per_second(world_size, model, options))
        middle, low, high = ratio(found[2], found[1])
        one, two = (statistics.median(found[world_size]) for world_size in (1, 2))
        print(
            f"{model}: {two:,.0f} images/s on two, {one:,.0f} on one: {middle:.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
