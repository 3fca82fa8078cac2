"""Models for tests that write down what enters them: `ledger:make`, a network with everything in it, and settings."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path

import torch
from torch import nn

AUGMENT = [
    "augment.transforms=[{name: RandAugment, args: {num_ops: 1}}, {name: 'noise_images:LibraryNoise'}]",
    "augment.random_resized_crop={}",
    "augment.pad_crop=1",
    "augment.flip=alternating",
    "augment.brightness=0.2",
    "augment.contrast=0.2",
    "augment.saturation=0.2",
    "augment.hue=0.1",
    "augment.cutout=0.25",
    "augment.erase=0.2",
    "augment.mixup=0.4",
    "augment.cutmix=1",
]
"""Every augmentation there is."""

BALANCE = ["train.sampling=square_root", "loss.name=focal", "loss.class_weights={'3': 2, '8': 0.5}"]
"""All that makes up for rare classes, for data whose classes are digits."""


class Ledger(nn.Module):
    """A network that appends the hash of each training micro-batch's pixels to a file of its process."""

    def __init__(self, network: nn.Module, folder: str | None) -> None:
        super().__init__()
        self.network = network
        self.file = None if folder is None else Path(folder) / f"rank{os.environ.get('RANK', '0')}.jsonl"

    def __deepcopy__(self, memo: dict) -> Ledger:
        """A copy, such as one to try the model with, writes nothing down."""
        return Ledger(copy.deepcopy(self.network, memo), None)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and self.file is not None:
            rows = [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()[:16] for image in images]
            with self.file.open("a") as file:
                file.write(json.dumps(rows) + "\n")
        return self.network(images)


def make(num_classes: int, width: int = 8, ledger: str | None = None) -> nn.Module:
    """Convolutions, BatchNorm and dropout, with more than one DDP bucket of parameters."""
    network = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 640),
        nn.Dropout(0.3),
        nn.ReLU(),
        nn.Linear(640, 640),
        nn.ReLU(),
        nn.Linear(640, num_classes),
    )
    return Ledger(network, ledger)


def read(folder: Path) -> dict[int, list[list[str]]]:
    """rank -> list of micro-batches, each a list of image hashes."""
    files = sorted(folder.glob("rank*.jsonl"))
    return {int(f.stem[4:]): [json.loads(line) for line in f.read_text().splitlines()] for f in files}


def digest(run_dir: Path, step: int) -> dict[str, str]:
    """SHA-256 of every tensor of a checkpoint: weights, statistics, average and optimizer."""
    from safetensors.torch import load_file

    path = run_dir / "checkpoints" / f"step-{step:08d}"
    tensors = {f"{f.stem}.{n}": t for f in sorted(path.glob("*.safetensors")) for n, t in load_file(f).items()}
    optimizer = torch.load(path / "optimizer.pt", weights_only=True)["optimizer"]
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items() if torch.is_tensor(value)}
    return {n: hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest() for n, t in tensors.items()}


def load(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights, statistics and average of a checkpoint."""
    from safetensors.torch import load_file

    path = run_dir / "checkpoints" / f"step-{step:08d}"
    return {f"{f.stem}.{n}": t for f in sorted(path.glob("*.safetensors")) for n, t in load_file(f).items()}
