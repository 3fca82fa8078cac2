"""Golden losses: a refactoring must reproduce them. Write them anew with `python tests/end_to_end/test_golden.py`.

float64 on one thread, so that they hold on other machines too, to 1e-6.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden" / "losses.json"
COMMON = ["train.precision=float64", "train.num_threads=1", "train.log_every=1 step", "run.trackers=[]"]
CONFIGS = {
    "digits": ["train.num_steps=12"],
    "accumulation": ["train.num_steps=10", "train.global_batch_size=32", "train.micro_batch_size=8"],
    "everything": [
        "train.num_steps=10", "optim.name=sgd", "optim.lr=0.05", "optim.schedule=one_cycle", "optim.nesterov=true",
        "augment.pad_crop=1", "augment.flip=true", "augment.mixup=0.4", "augment.cutmix=1",
        "augment.contrast=0.2", "augment.hue=0.05", "augment.erase=0.2", "loss.label_smoothing=0.1",
        "train.ema_decay=0.9", "train.max_grad_norm=1", "model.args={dropout: 0.4}", "train.eval_every=5 steps",
    ],
    "resnet9": ["train.num_steps=4", "model.name=resnet9", "train.global_batch_size=16", "optim.warmup=2"],
}  # fmt: skip


def losses(ranks, name: str) -> dict[str, list[float]]:
    """split -> the losses that metrics.csv has."""
    from distcls.runs.tracking.metrics_file import read_metrics

    ranks.run("train", "--name", name, *COMMON, *CONFIGS[name])
    rows = read_metrics(ranks.folder / "runs" / name / "metrics.csv")
    return {split: [row["loss"] for row in rows if row["split"] == split] for split in ("train", "val", "test")}


@pytest.mark.parametrize("name", CONFIGS)
def test_golden_losses(ranks, name):
    expected = json.loads(GOLDEN.read_text())[name]
    found = losses(ranks, name)
    for split in ("train", "val", "test"):
        assert found[split] == pytest.approx(expected[split], abs=1e-6), split


if __name__ == "__main__":
    import os
    import sys
    import tempfile

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from ranks import Ranks

    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    with Ranks(folder) as started:
        GOLDEN.write_text(json.dumps({name: losses(started, name) for name in CONFIGS}, indent=1) + "\n")
