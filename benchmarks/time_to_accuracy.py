"""Seconds until 85 % of CIFAR-10's test images are classified rightly, beside the usual script for accelerate.

distcls trains a shipped config, in the precision that it chooses; the other side is accelerate_side.py, in float32.
Each takes the fewest of the given epochs with which it reaches the target with the first seed: every number of epochs
is a run of its own, because the schedule of the learning rate follows from it. With that number, the other seeds run
in turns. Both sides train on all training images, in a process of their own, and look at the test images once, at the
end; the config's test-time augmentation, in distcls's seconds too, is part of its recipe, and the script has none.
Seconds are those of whole commands; distcls decodes the images and times the precisions anew each time.

If the script does not get there with the epochs given, the comparison is with its longest run: a lower bound.

    python benchmarks/time_to_accuracy.py --seeds 0 1 2
    python benchmarks/time_to_accuracy.py --epochs 12 --peer-epochs 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import cifar_folder, conditions, output_of, ratio

ROOT = Path(__file__).resolve().parents[1]
DISTCLS, ACCELERATE = "distcls", "accelerate"


def distcls(data: Path, epochs: int, seed: int, options: argparse.Namespace) -> float:
    """Return the accuracy that the command reports for the test images."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "distcls", "train", "-c", str(options.config.resolve()), "--data", str(data)]
        settings = [
            f"run.dir={folder}/run", f"train.seed={seed}", f"train.num_epochs={epochs}", "data.val_fraction=0",
            "train.eval_every=100%", "run.device=cpu",
        ]  # fmt: skip
        output_of([*words, *settings, *options.settings], ROOT, {"XDG_CACHE_HOME": folder})
        return json.loads(Path(folder, "run", "metrics.json").read_text())["test"]["accuracy"]


def script(data: Path, epochs: int, seed: int, _: argparse.Namespace) -> float:
    """Return the accuracy that accelerate_side.py prints."""
    words = [sys.executable, str(ROOT / "benchmarks" / "accelerate_side.py"), str(data), str(epochs), str(seed)]
    return float(output_of(words, ROOT))


SIDES = {DISTCLS: distcls, ACCELERATE: script}


def timed(side: str, data: Path, epochs: int, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Run a side; return its accuracy and its seconds."""
    started = time.perf_counter()
    accuracy = SIDES[side](data, epochs, seed, options)
    seconds = time.perf_counter() - started
    print(f"{side:10} {epochs:>3} epochs  seed {seed}  {accuracy:.2%}  {seconds:.0f} s", flush=True)
    return accuracy, seconds


def fewest(side: str, tries: list[int], data: Path, options: argparse.Namespace) -> tuple[int, list[float], bool]:
    """Return the fewest epochs that reach the target, the seconds of that run, and True; or the most, and False."""
    for epochs in sorted(tries):
        accuracy, seconds = timed(side, data, epochs, options.seeds[0], options)
        if accuracy >= options.target:
            if epochs == min(tries) and epochs > 1:
                print(f"{side} may need fewer than {epochs} epochs, which were not tried", flush=True)
            return epochs, [seconds], True
    return max(tries), [seconds], False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "cifar10_small_airbench.yaml")
    parser.add_argument("--target", type=float, default=0.85)
    parser.add_argument("--epochs", type=int, nargs="+", default=[8, 10, 12, 14, 16])
    parser.add_argument("--peer-epochs", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", nargs="+", default=[], help="settings of distcls")
    options = parser.parse_args()
    data = cifar_folder(options.data).resolve()
    print(conditions())
    epochs, own, reaches = fewest(DISTCLS, options.epochs, data, options)
    if not reaches:
        raise SystemExit(f"distcls does not reach {options.target:.0%}: give more --epochs")
    peer_epochs, peer, peer_reaches = fewest(ACCELERATE, options.peer_epochs, data, options)
    for seed in options.seeds[1:]:
        own.append(timed(DISTCLS, data, epochs, seed, options)[1])
        peer.append(timed(ACCELERATE, data, peer_epochs, seed, options)[1])
    middle, low, high = ratio(own, peer)
    most = "" if peer_reaches else "less than "
    print(
        f"{statistics.median(own):.0f} s against {statistics.median(peer):.0f} s: distcls takes {most}{middle:.3f} "
        f"({low:.3f} to {high:.3f}) of the script's time to {options.target:.0%}"
    )


if __name__ == "__main__":
    main()
