"""A cross-validation finds wrong labels; the next run leaves them out, and is still a function of its config."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from ranks import read_json

STEPS = ["train.num_epochs=null", "train.num_steps=20", "train.checkpoint_every=10 steps"]
FAST = ["train.global_batch_size=32", "train.num_threads=1", "run.trackers=[]"]
FLIPS = 72


def write_noisy_digits(file: Path) -> dict[str, int]:
    """Write the digits with some labels flipped at random; return the true label of each flipped image."""
    from sklearn.datasets import load_digits  # takes seconds

    digits = load_digits()
    draw = np.random.default_rng(0)
    labels = digits.target.copy()
    flipped = draw.choice(len(labels), FLIPS, replace=False)
    labels[flipped] = (labels[flipped] + draw.integers(1, 10, FLIPS)) % 10
    np.savez(file, images=(digits.images * 15).astype(np.uint8), labels=labels)
    return {f"digits/train/{i}": int(digits.target[i]) for i in flipped}


def test_flipped_labels_are_found_and_left_out(ranks) -> None:
    truth = write_noisy_digits(ranks.folder / "digits.npz")
    data = ["--data", "digits.npz", "data.test_fraction=0"]
    length = ["train.num_epochs=null", "train.num_steps=250", "train.eval_every=125 steps"]
    for fold in range(2):  # as distcls crossval does, without waiting for its imports
        ranks.run("train", *data, "--name", f"noisy-fold{fold}", "data.folds=2", f"data.fold={fold}", *length, *FAST)
    output = ranks.run("audit", "runs/noisy")
    assert "the labels of 1,797 of 1,797 images, by 2 runs" in output
    with (ranks.folder / "runs/noisy-audit/audit.csv").open(newline="") as lines:
        listed = list(csv.DictReader(lines))
    found = [row for row in listed if row["reason"] == "label error"]
    hits = [row for row in found if row["image"] in truth]
    assert len(hits) >= 0.9 * FLIPS and len(hits) >= 0.6 * len(found)
    assert sum(row["image"] in truth for row in found[:FLIPS]) >= 0.8 * FLIPS, "the list begins with the worst"
    assert sum(int(row["suggested"]) == truth[row["image"]] for row in hits) >= 0.9 * len(hits)
    output = ranks.run("train", *data, "--name", "clean", *STEPS, *FAST, "data.exclude=runs/noisy-audit/audit.csv")
    assert f"; {len(listed):,} excluded" in output
    lists = read_json(ranks.folder / "runs/clean/splits.json")
    assert not {row["image"] for row in found} & {name for names in lists.values() for name in names}


def test_a_run_keeps_to_its_list_on_any_number_of_processes(ranks) -> None:
    names = ranks.folder / "names.txt"
    names.write_text("digits/5\ndigits/17\n")
    train = ["train", *STEPS, *FAST, "data.exclude=names.txt"]
    assert "; 2 excluded" in ranks.run(*train, "--name", "one")
    ranks.run(*train, "--name", "two", world_size=2)
    one, two = (ranks.folder / "runs" / name for name in ("one", "two"))
    assert read_json(one / "splits.json") == read_json(two / "splits.json")
    assert read_json(one / "data_report.json") == read_json(two / "data_report.json")

    names.write_text("digits/5\n")
    told = ranks.run(*train, "--name", "one", "train.num_steps=30", expect=2)
    assert "the data is not what runs/one began with:\n  1 image is new: digits/17" in told
    told = ranks.run(*train[:-1], "--name", "one", "train.num_steps=30", expect=2)
    assert "runs/one holds a run with a different config" in told and "data.exclude: names.txt -> null" in told
    names.unlink()
    told = ranks.run(*train, "--name", "three", expect=66)
    assert "data.exclude=names.txt cannot be read" in told and not (ranks.folder / "runs" / "three").exists()
