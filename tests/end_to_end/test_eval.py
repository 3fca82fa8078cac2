"""`distcls eval` as people use it: ensembles, test-time augmentation, calibration, and tables of predictions."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from ranks import Ranks

SHORT = ["train.num_steps=40", "train.num_threads=1", "run.trackers=[]", "data.workers=0"]


def table(path):
    """The rows of a CSV file of predictions: (image, label, prediction) and the probabilities (n, C)."""
    rows = list(csv.DictReader(path.open()))
    columns = [name for name in rows[0] if name.startswith("p_")]
    probs = np.array([[float(row[name]) for name in columns] for row in rows])
    return [(row["image"], row["label"], row["prediction"]) for row in rows], probs


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with Ranks(folder) as ranks:
        for seed in (0, 1):
            ranks.run("train", "--name", f"seed{seed}", f"train.seed={seed}", *SHORT)
    return folder


@pytest.fixture
def two_runs(trained, ranks):
    """Two runs, runs/seed0 and runs/seed1, that a test may change."""
    shutil.copytree(trained, ranks.folder, dirs_exist_ok=True)
    return ranks


def test_several_runs_are_an_ensemble(two_runs):
    ranks = two_runs
    for seed in (0, 1):
        ranks.run("eval", f"runs/seed{seed}", "--csv", f"{seed}.csv")
    for world_size in (1, 2):
        both = ["runs/seed0", "runs/seed1", "--csv", f"both{world_size}.csv", "--json", f"both{world_size}.json"]
        told = ranks.run("eval", *both, world_size=world_size)
    assert "95 % interval" in told and "accuracy" in told
    (images, first), (_, second), (rows, mean) = (table(ranks.folder / f"{n}.csv") for n in ("0", "1", "both2"))
    assert [row[:2] for row in rows] == [row[:2] for row in images]
    assert np.abs((first + second) / 2 - mean).max() < 1e-6
    one, two = ((ranks.folder / f"both{world_size}.json").read_text() for world_size in (1, 2))
    assert one == two, "two processes find the same"
    found = json.loads(one)
    low, high = found["intervals"]["accuracy"]
    assert low < found["accuracy"] < high and high - low < 0.1
    names = found["class_names"]
    assert [row[2] for row in rows] == [names[i] for i in mean.argmax(1)]


def test_a_temperature_is_fitted_stored_and_used(two_runs):
    ranks = two_runs
    before = (ranks.folder / "runs/seed0/model/model.safetensors").read_bytes()
    ranks.run("eval", "runs/seed0", "--csv", "before.csv", "--json", "before.json")
    told = ranks.run("eval", "runs/seed0", "--calibrate", "--json", "after.json", world_size=2)
    stored = json.loads((ranks.folder / "runs/seed0/model/preprocessing.json").read_text())["temperature"]
    assert stored != 1 and f"temperature {stored:.4f}, fitted on val" in told and "before" in told
    was, now = (json.loads((ranks.folder / name).read_text()) for name in ("before.json", "after.json"))
    fitted = now["calibration"]
    assert fitted["after"]["nll"] < fitted["before"]["nll"] and fitted["temperature"] == stored
    assert now["nll"] < was["nll"] and now["accuracy"] == was["accuracy"]
    assert (ranks.folder / "runs/seed0/model/model.safetensors").read_bytes() == before
    ranks.run("eval", "runs/seed0", "--csv", "after.csv")
    (_, probs), (_, hot) = table(ranks.folder / "before.csv"), table(ranks.folder / "after.csv")
    powers = probs ** (1 / stored)
    assert np.abs(powers / powers.sum(1, keepdims=True) - hot).max() < 1e-4
    again = ranks.run("eval", "runs/seed0", "--calibrate", "--split", "val")
    assert f"temperature {stored:.4f}" in again, "fitting starts from 1 each time"
    refused = ranks.run("eval", "runs/seed0", "runs/seed1", "--calibrate", expect=2)
    assert "calibrate the runs one by one" in refused
    for words in (["--tta", "flip"], ["train.precision=bf16"]):
        told = ranks.run("eval", "runs/seed0", "--calibrate", *words, expect=2)
        assert f"leave out {words[0]}, calibrate, and then evaluate with it" in told
    (ranks.folder / "runs/seed0").rename(ranks.folder / "runs/lr=0.1")
    assert "accuracy" in ranks.run("eval", "runs/lr=0.1"), "not a setting"


def test_views_change_probabilities_a_little(two_runs):
    ranks = two_runs
    found = {}
    for level in ("none", "flip", "shift", "scale"):
        ranks.run("eval", "runs/seed0", "--tta", level, "--csv", f"{level}.csv")
        found[level] = table(ranks.folder / f"{level}.csv")[1]
    for level in ("flip", "shift", "scale"):
        assert np.abs(found[level] - found["none"]).max() > 1e-3
        assert np.allclose(found[level].sum(1), 1, atol=1e-5)
    ranks.run("train", "--name", "flipped", *SHORT, "train.tta=flip")
    ranks.run("eval", "runs/flipped", "--csv", "flipped.csv")
    assert np.abs(table(ranks.folder / "flipped.csv")[1] - found["flip"]).max() < 1e-6, "the run's own level"
    with np.load(ranks.folder / "runs/flipped/predictions/test.npz") as kept:
        assert np.abs(kept["probs"] - found["flip"]).max() < 1e-6, "and that of the end of the run"


def test_runs_that_do_not_fit_together_are_refused(two_runs):
    ranks = two_runs
    ranks.run("train", "--name", "other", *SHORT, "data.split_seed=5")
    told = ranks.run("eval", "runs/seed0", "runs/other", expect=2)
    assert "have different images in their test splits" in told
    assert "Traceback" not in told
    ranks.run("train", "--name", "made", "data.name=synthetic", *SHORT)
    assert "do not have the same classes" in ranks.run("eval", "runs/seed0", "runs/made", expect=2)


def test_a_parquet_file_has_the_columns_of_the_csv_file(two_runs):
    parquet = pytest.importorskip("pyarrow.parquet")
    ranks = two_runs
    ranks.run("eval", "runs/seed0", "--csv", "p.csv", "--parquet", "p.parquet")
    read = parquet.read_table(ranks.folder / "p.parquet").to_pydict()
    rows = list(csv.DictReader((ranks.folder / "p.csv").open()))
    assert list(read) == list(rows[0]) and read["image"] == [row["image"] for row in rows]
    assert np.allclose(read["p_3"], [float(row["p_3"]) for row in rows])
