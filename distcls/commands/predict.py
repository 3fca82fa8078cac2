"""`distcls predict RUN IMAGE…`: what a run's model says of images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distcls.cli import run_command
from distcls.commands.arguments import Parser
from distcls.errors import BadDataError, MissingInputError, UsageError
from distcls.files.atomic import printable

if TYPE_CHECKING:
    import torch

    from distcls.inference.classifier import KeptModel

BATCH_SIZE = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Print the best classes of each image. Exit code 65 if one of them could not be read."""
    return run_command(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    parser = Parser(prog="distcls predict", description="What a run's model says of images.")
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=3, help="how many classes to show (default: 3)")
    options = parser.parse_intermixed_args(argv)
    if options.top < 1:
        raise UsageError(f"--top {options.top}: give how many classes to show, 1 or more.")
    paths = find_images(options.images)
    from distcls.inference.classifier import load_kept_model

    model = load_kept_model(Path(options.run))
    bad: list[str] = []
    for start in range(0, len(paths), BATCH_SIZE):
        bad += print_predictions(model, paths[start : start + BATCH_SIZE], options.top)
    if bad:
        raise BadDataError(f"{len(bad)} of {len(paths)} images could not be read:\n  " + "\n  ".join(bad))
    return 0


def find_images(names: Sequence[str]) -> list[Path]:
    """Files as given, and the images in folders. Raises MissingInputError for what is not there."""
    from distcls.data.sources.listing import list_images

    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            paths += [path / name for name in list_images(str(path)).split_paths()]
        elif path.exists():
            paths.append(path)
        else:
            raise MissingInputError(f"{name}: there is no such image or folder.")
    if not paths:
        raise MissingInputError(f"there are no images in {', '.join(names)}.")
    return paths


def print_predictions(model: KeptModel, paths: Sequence[Path], top: int) -> list[str]:
    """One line per image: its path and its `top` classes with their probabilities. The unreadable are returned."""
    from distcls.data.decoding.decode import BadImageError, decode

    images, good, bad = [], [], []
    for path in paths:
        try:
            images.append(decode(path, model.decoding))
            good.append(path)
        except BadImageError as reason:
            bad.append(f"{path}: {reason}")
    if images:
        for path, line in zip(good, predict(model, images).tolist(), strict=True):
            best = sorted(range(len(line)), key=lambda c: -line[c])[:top]
            print(printable(f"{path}  " + "  ".join(f"{model.class_names[c]} {line[c]:.1%}" for c in best)))
    return bad


def predict(model: KeptModel, images: Sequence) -> torch.Tensor:
    """Probabilities (n, C) for uint8 images (S, S, 3) of the model's size."""
    import numpy as np
    import torch

    with torch.inference_mode():
        logits = model.module(model.normalize(torch.from_numpy(np.stack(images))))
    return logits.double().softmax(1)
