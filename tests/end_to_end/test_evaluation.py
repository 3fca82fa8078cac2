"""The promise that evaluation counts every image once: 1,003 images on 1, 2, 3 and 4 processes."""

from __future__ import annotations

import csv
import json
from itertools import pairwise

import numpy as np
import pytest
from noise_images import NUM_VAL, make_images

from distcls.config.settings import DataConfig


def probabilities(run_dir):
    """Of the kept model, for all val images at once: none of distcls's evaluation takes part."""
    import torch
    from safetensors.torch import load_file

    from distcls.config.loading import read_config
    from distcls.models.build import build_model

    config = read_config(run_dir / "config.yaml")
    model = build_model(config.model, 7, 8)
    model.load_state_dict(load_file(run_dir / "model" / "model.safetensors"))
    val = make_images(DataConfig())["val"]
    images = torch.from_numpy(val.images).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor(config.augment.normalize.mean), torch.tensor(config.augment.normalize.std)
    with torch.inference_mode():
        logits = model.eval()((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    return logits.double().softmax(1).numpy(), val.labels


def calibration_error(probs, labels, bins=15):
    """As Guo et al. write it."""
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    inside = [(confidence > low) & (confidence <= high) for low, high in pairwise(edges)]
    return sum(abs(correct[i].mean() - confidence[i].mean()) * i.mean() for i in inside if i.any())


def test_every_number_is_that_of_one_process_and_of_scikit_learn(ranks):
    import sklearn.metrics as sk

    settings = ["data.name=noise_images:make_images", "train.num_steps=12", "train.global_batch_size=24"]
    ranks.run("train", "--name", "r", *settings, "train.num_threads=1", "train.eval_batch_size=64", "run.trackers=[]")
    found = {}
    for world_size in (1, 2, 3, 4):
        output = ["--split", "val", "--json", f"w{world_size}.json", "--csv", f"w{world_size}.csv"]
        ranks.run("eval", "runs/r", *output, world_size=world_size)
        found[world_size] = json.loads((ranks.folder / f"w{world_size}.json").read_text())
    one = found[1]
    assert one["count"] == NUM_VAL
    for world_size in (2, 3, 4):
        assert found[world_size]["confusion"] == one["confusion"]
        counted = ("count", "accuracy", "top5", "by_class", "macro_precision", "macro_recall", "macro_f1")
        assert {k: found[world_size][k] for k in counted} == {k: one[k] for k in counted}
        assert found[world_size]["loss"] == pytest.approx(one["loss"], abs=1e-9)
        assert found[world_size]["ece"] == pytest.approx(one["ece"], abs=1e-9)

    probs, labels = probabilities(ranks.folder / "runs" / "r")
    preds = probs.argmax(1)
    rows = list(csv.DictReader((ranks.folder / "w4.csv").open()))
    assert [row["prediction"] for row in rows] == [f"c{pred}" for pred in preds]
    assert [row["label"] for row in rows] == [f"c{label}" for label in labels]
    assert 0.2 < one["accuracy"] < 0.999  # else the rest would say little
    assert one["accuracy"] == (preds == labels).mean()
    assert one["top5"] == sk.top_k_accuracy_score(labels, probs, k=5)
    assert one["confusion"] == sk.confusion_matrix(labels, preds).tolist()
    assert list(one["by_class"]) == one["class_names"] == [f"c{i}" for i in range(7)]
    recalls = [of_class["recall"] for of_class in one["by_class"].values()]
    assert recalls == pytest.approx(sk.recall_score(labels, preds, average=None).tolist(), abs=1e-15)
    assert one["macro_precision"] == pytest.approx(sk.precision_score(labels, preds, average="macro"), abs=1e-15)
    assert one["macro_recall"] == pytest.approx(sk.recall_score(labels, preds, average="macro"), abs=1e-15)
    assert one["macro_f1"] == pytest.approx(sk.f1_score(labels, preds, average="macro"), abs=1e-15)
    assert one["ece"] == pytest.approx(calibration_error(probs, labels), abs=1e-6)
