"""How many wrong labels `distcls audit` finds in CIFAR-10 if a tenth of the labels is flipped at random.

Writes a CSV file of the training images in which a share of the labels is replaced by another class, drawn uniformly,
trains the folds with `distcls crossval`, and compares what `distcls audit` writes with the flips. CIFAR-10 has wrong
labels of its own, a few in a thousand: found ones count as mistakes here.

    python benchmarks/audit.py --work DIR                                        # DIR keeps the runs; again to resume
    python benchmarks/audit.py --work DIR --images 2000 --epochs 2               # to see that it works
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from side_by_side import cifar_folder, conditions

ROOT = Path(__file__).resolve().parents[1]

SHORTER_LISTS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the flips, for which the list is read from its top until so many are found."""


def write_noisy_csv(data: Path, file: Path, images: int | None, share: float, seed: int) -> dict[str, str]:
    """Write a CSV of the images under data/train with some labels flipped; return the true label of each flipped one.

    Images are named by their absolute paths, so that nothing is copied.
    """
    draw = random.Random(seed)
    paths = sorted((data / "train").glob("*/*.jpg"))
    paths = sorted(draw.sample(paths, images)) if images is not None else paths
    classes = sorted({path.parent.name for path in paths})
    flipped = set(draw.sample(range(len(paths)), round(share * len(paths))))
    truth = {}
    with file.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["path", "label"])
        for i, path in enumerate(paths):
            label = path.parent.name
            if i in flipped:
                truth[str(path)] = label
                label = draw.choice([name for name in classes if name != label])
            rows.writerow([path, label])
    return truth


def distcls(*words: str) -> float:
    """Run a command of distcls, and return how many seconds it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "distcls", *words], cwd=ROOT, check=True)
    return time.perf_counter() - start


def report(found: Sequence[dict[str, str]], truth: dict[str, str]) -> None:
    """Print recall and precision of the whole list, and of its top."""
    listed = [row for row in found if row["reason"] == "label error"]
    hits = [row["image"] in truth for row in listed]
    right = sum(truth.get(row["image"]) == row["suggested"] for row in listed)
    print(f"{len(truth):,} flipped labels; the audit lists {len(listed):,} probable label errors")
    print(f"found {sum(hits) / len(truth):.1%} of the flips, precision {sum(hits) / max(len(hits), 1):.1%}")
    print(f"of the flips that it found, {right / max(sum(hits), 1):.1%} come with the true class as the suggestion")
    so_far = 0
    goals = list(SHORTER_LISTS)
    for number, hit in enumerate(hits, 1):
        so_far += hit
        while goals and so_far >= goals[0] * len(truth):
            print(f"  the first {number:,}: {goals.pop(0):.0%} of the flips, precision {so_far / number:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="where the CSV and the runs are kept")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--config", default="configs/cifar10_cnn3.yaml")
    parser.add_argument("--epochs", default="15")
    parser.add_argument("--folds", default="5")
    parser.add_argument("--images", type=int, help="so many of the 50,000 training images, drawn at random")
    parser.add_argument("--flip", type=float, default=0.1, help="share of the labels that are flipped")
    parser.add_argument("--seed", type=int, default=0, help="of the flips")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of the runs")
    options = parser.parse_intermixed_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    noisy, stem, findings = work / "noisy.csv", work / "noisy", work / "audit"
    data = cifar_folder(options.data).resolve()
    truth = write_noisy_csv(data, noisy, options.images, options.flip, options.seed)
    lengths = [f"train.num_epochs={options.epochs}", f"data.folds={options.folds}", "data.test_fraction=0"]
    settings = [*lengths, "run.trackers=[]", "run.device=cpu", f"run.dir={stem}", *options.settings]
    print(conditions(), flush=True)
    trained = distcls("crossval", "-c", options.config, f"--data={noisy}", "data.name=csv", *settings)
    audited = distcls("audit", str(stem), "--output", str(findings))
    with (findings / "audit.csv").open(newline="") as lines:
        report(list(csv.DictReader(lines)), truth)
    print(f"training {trained:,.0f} s, audit {audited:,.0f} s; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
