"""Test accuracy of `distcls train` against a loop written by hand with the same recipe, over several seeds.

The recipe is configs/cifar10_cnn.yaml, for ten epochs. The hand-written side is plain PyTorch: no process group, no
accumulation, BatchNorm as torch has it, an ordinary shuffle. It takes from distcls only the network's
definition and the decoded arrays, already split. Both sides keep the weights of the best validation
accuracy, which is measured after each epoch, and look at the test images once.

    python benchmarks/accuracy.py --seeds 0 1 2 3 4              # the two sides of a seed one after the other
    python benchmarks/accuracy.py --seeds 0 --epochs 1 --sides bare
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from side_by_side import cifar_folder, conditions
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
BATCH, PAD, LR, WEIGHT_DECAY = 128, 2, 2e-3, 0.05
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


@dataclass
class Arrays:
    """One split: uint8 pixels (n, 32, 32, 3) and class ids (n,)."""

    pixels: torch.Tensor
    labels: torch.Tensor


def train_with_distcls(data: Path, seed: int, epochs: int, precision: str, folder: Path) -> float:
    """Test accuracy of the real command."""
    run_dir = folder / f"seed-{seed}"
    words = [sys.executable, "-m", "distcls", "train", "-c", "configs/cifar10_cnn.yaml", "--data", str(data)]
    settings = [f"run.dir={run_dir}", f"train.seed={seed}", f"train.num_epochs={epochs}", "run.trackers=[]"]
    settings += ["run.device=cpu", f"train.precision={precision}"]
    subprocess.run([*words, *settings], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return json.loads((run_dir / "metrics.json").read_text())["test"]["accuracy"]


def train_by_hand(splits: dict[str, Arrays], seed: int, epochs: int, precision: str) -> float:
    """Test accuracy of the same recipe in plain PyTorch."""
    from distcls.models.networks.cnn import cnn2

    torch.manual_seed(seed)
    net = cnn2(10, 32, dropout=0.2).to(memory_format=torch.channels_last)
    if precision == "bf16":
        net.forward = torch.autocast("cpu", torch.bfloat16)(net.forward)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], lr=LR, fused=True
    )
    train = splits["train"]
    steps_an_epoch = len(train.labels) // BATCH
    best, best_weights = -1.0, {}
    for epoch in range(epochs):
        net.train()
        order = torch.randperm(len(train.labels))
        for i in range(steps_an_epoch):
            rows = order[i * BATCH : (i + 1) * BATCH]
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(epoch * steps_an_epoch + i, epochs * steps_an_epoch)
            optimizer.zero_grad()
            logits = net(normalize(crop_and_flip(train.pixels[rows])))
            F.cross_entropy(logits.float(), train.labels[rows]).backward()
            optimizer.step()
        accuracy = measure(net, splits["val"])
        if accuracy > best:
            best, best_weights = accuracy, {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(best_weights)
    return measure(net, splits["test"])


def one_cycle(step: int, total: int) -> float:
    """Up from a 25th of the peak for 30 % of the steps, then down to nothing, both along a cosine."""
    rise = round(0.3 * total)
    if step < rise:
        return LR - (LR - LR / 25) * (1 + math.cos(math.pi * step / rise)) / 2
    return LR * (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2


def crop_and_flip(pixels: torch.Tensor) -> torch.Tensor:
    """Image by image, as one would first write it: uint8 (n, 32, 32, 3) to the same."""
    size = pixels.shape[1]
    padded = np.pad(pixels.numpy(), ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)), mode="reflect")
    tops, lefts = torch.randint(0, 2 * PAD + 1, (2, len(pixels))).tolist()
    mirrored = (torch.rand(len(pixels)) < 0.5).tolist()
    crops = [image[y : y + size, x : x + size] for image, y, x in zip(padded, tops, lefts, strict=True)]
    return torch.from_numpy(np.stack([c[:, ::-1] if m else c for c, m in zip(crops, mirrored, strict=True)]))


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (n, 32, 32, 3) to float32 (n, 3, 32, 32)."""
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


@torch.no_grad()
def measure(net: nn.Module, split: Arrays) -> float:
    """Share of the images that are classified rightly."""
    net.eval()
    pieces = zip(split.pixels.split(500), split.labels.split(500), strict=True)
    right = sum(int((net(normalize(pixels)).argmax(1) == labels).sum()) for pixels, labels in pieces)
    return right / len(split.labels)


def decoded_splits(data: Path) -> dict[str, Arrays]:
    """The arrays that distcls decoded, cut as distcls cuts them."""
    from distcls.config.settings import DataConfig
    from distcls.data.build import OneProcess, build_data

    built = build_data(DataConfig(name="folder", root=str(data)), OneProcess())
    return {
        split.name: Arrays(torch.from_numpy(split.pixels[split.rows]), torch.from_numpy(split.labels))
        for split in built.splits()
        if split.pixels is not None
    }


def report(accuracies: dict[str, list[float]]) -> None:
    """Mean and standard deviation of each side, and the difference with its standard error."""
    print()
    for side, values in accuracies.items():
        if values:
            spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
            print(f"{side:8} {100 * statistics.mean(values):.2f}{spread} %  (mean ± std of {len(values)} seeds)")
    own, bare = accuracies["distcls"], accuracies["bare"]
    if own and bare:
        difference = 100 * (statistics.mean(own) - statistics.mean(bare))
        error = (
            math.sqrt((statistics.variance(own) + statistics.variance(bare)) / len(own)) if len(own) > 1 else math.nan
        )
        print(f"distcls minus bare: {difference:+.2f} points (standard error {100 * error:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--sides", nargs="+", choices=["distcls", "bare"], default=["distcls", "bare"])
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    options = parser.parse_args()
    data = cifar_folder(options.data).resolve()
    torch.set_num_threads(os.cpu_count() or 1)
    print(conditions())
    print(f"cnn2, {options.epochs} epochs in {options.precision}; test accuracy")
    accuracies: dict[str, list[float]] = {"distcls": [], "bare": []}
    splits = decoded_splits(data) if "bare" in options.sides else {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for side in options.sides:
                start = time.perf_counter()
                if side == "distcls":
                    accuracy = train_with_distcls(data, seed, options.epochs, options.precision, Path(folder))
                else:
                    accuracy = train_by_hand(splits, seed, options.epochs, options.precision)
                accuracies[side].append(accuracy)
                print(f"seed {seed}  {side:8} {100 * accuracy:.2f} %  {time.perf_counter() - start:.0f} s", flush=True)
    report(accuracies)


if __name__ == "__main__":
    main()
