"""Runs many models through the promises, a few steps each, and prints a table of what held.

    python tests/soak/models.py                   # the odd ones, and all of torchvision's: an hour on two cores
    python tests/soak/models.py odd resnet mnasnet
    python tests/soak/models.py timm/resnet10t    # where timm is installed

Each model trains deterministically on 1, 2 and 4 processes, and once more from the middle on another number of
processes. All must end with the same bits; a model that cannot is refused before its first step, by a sentence.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import ledger
from ranks import Ranks, warm_up

STEPS = 4
LIMIT = 900
"""Seconds that one model may take on one number of processes."""

SETTINGS = [
    *("data.name=synthetic", "data.val_fraction=0.25", "data.test_fraction=0", "data.workers=0"),
    *("train.deterministic=true", "train.global_batch_size=8", "train.micro_batch_size=2", f"train.num_steps={STEPS}"),
    *("train.checkpoint_every=1", "train.keep_checkpoints=9", "train.eval_every=2", "train.num_threads=1"),
    *("augment.flip=true", "train.ema_decay=0.9", "run.trackers=[]", "run.device=cpu", "optim.name=sgd"),
]

ODD = (
    *("frozen_statistics", "skipped_block", "own_draws", "running_mean", "extra_state", "made_in_forward"),
    *("tuple_in_training", "complex_weights", "shared_storage", "lazy", "instance_norm", "spectral", "old_spectral"),
    *("tied", "sparse"),
)
SIZES = {"inception_v3": 96, "vit_": 224, "maxvit": 224, "swin": 64, "alexnet": 96, "squeezenet": 64, "densenet": 64}
"""Sides of images by how a name of torchvision begins, where 48 pixels would be too few or are not allowed."""


@dataclass
class Verdict:
    """What came of a model."""

    name: str
    held: str
    """ "equal", "refused", or what went wrong."""
    seconds: float
    note: str = ""

    @property
    def is_good(self) -> bool:
        """True if the model trained right or was refused by a sentence."""
        return self.held in ("equal", "refused")

    def __str__(self) -> str:
        return f"{self.name:<32}{self.held:<28}{self.seconds:6.0f} s  {self.note}"


def names_like(patterns: list[str]) -> list[str]:
    """The models that some patterns mean; without any, all."""
    import torchvision

    known = [f"odd/{name}" for name in ODD]
    known += [f"torchvision/{name}" for name in torchvision.models.list_models(torchvision.models)]
    given = [pattern for pattern in patterns if "/" in pattern and pattern not in known]
    return [name for name in known if not patterns or any(pattern in name for pattern in patterns)] + given


def settings_of(name: str) -> list[str]:
    """The settings with which a model of the list is trained."""
    library, _, short = name.partition("/")
    if library == "odd":
        return [f"model.name=odd_models:{short}", "data.args={num_images: 40, num_classes: 4, size: 16}"]
    size = next((size for start, size in SIZES.items() if short.startswith(start)), 48)
    return [f"model.name={name}", f"data.args={{num_images: 40, num_classes: 4, size: {size}}}"]


def check(name: str, ranks: Ranks) -> Verdict:
    """Train a model on 1, 2 and 4 processes, and from its middle on 2, and compare all bits."""
    start, digests = time.monotonic(), {}
    stem = name.replace("/", "-")
    for world_size in (1, 2, 4):
        group = ranks.start(
            "train", f"run.name={stem}-{world_size}", *SETTINGS, *settings_of(name), world_size=world_size
        )
        codes = group.wait(LIMIT)
        last = _last_line(group.output())
        run_dir = ranks.folder / "runs" / f"{stem}-{world_size}"
        if set(codes) == {2} and not (run_dir / "checkpoints").exists():
            return Verdict(name, "refused", time.monotonic() - start, last)
        if any(codes):
            return Verdict(name, f"exit codes {codes}", time.monotonic() - start, last)
        digests[world_size] = ledger.digest(run_dir, STEPS)
    digests["resumed"] = _resume(name, stem, ranks)
    if digests["resumed"] is None:
        return Verdict(name, "cannot be resumed", time.monotonic() - start)
    other = [str(key) for key, digest in digests.items() if digest != digests[1]]
    held = f"other bits: {', '.join(other)}" if other else "equal"
    return Verdict(name, held, time.monotonic() - start, f"{len(digests[1])} tensors")


def _resume(name: str, stem: str, ranks: Ranks) -> dict[str, str] | None:
    """The bits of the run on one process, once more from its second step on, on two."""
    run_dir = ranks.folder / "runs" / f"{stem}-resumed"
    shutil.copytree(ranks.folder / "runs" / f"{stem}-1", run_dir)
    for step in range(3, STEPS + 1):
        shutil.rmtree(run_dir / "checkpoints" / f"step-{step:08d}")
    for leftover in run_dir.glob(f"checkpoints/best-{STEPS:08d}"):
        shutil.rmtree(leftover)
    shutil.rmtree(run_dir / "model")
    (run_dir / "status.json").write_text(json.dumps({"state": "running", "step": 2}))
    group = ranks.start("train", f"run.name={stem}-resumed", *SETTINGS, *settings_of(name), world_size=2)
    return ledger.digest(run_dir, STEPS) if group.wait(LIMIT) == [0, 0] else None


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("---")]
    return lines[-1][:160] if lines else ""


def main() -> int:
    """Print a line for each model; exit code 1 if a promise broke."""
    warm_up()
    verdicts = []
    for name in names_like(sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder, Ranks(Path(folder)) as ranks:
            os.chdir(folder)
            verdicts.append(check(name, ranks))
            os.chdir("/")
            print(verdicts[-1], flush=True)
    good = sum(verdict.is_good for verdict in verdicts)
    print(f"\n{good} of {len(verdicts)} models kept every promise or were refused")
    return int(good < len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
