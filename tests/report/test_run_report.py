"""The plots of a run are drawn from its folder alone, again and again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn import count_color, read
from PIL import Image
from ranks import read_json

from distcls.errors import MissingInputError
from distcls.report.counting import calibration_bins, confusion_matrix
from distcls.report.figure import GREEN, RED
from distcls.report.run_report import write_report
from distcls.runs.results import Predictions, load_predictions

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"
PLOTS = {
    *("curves.png", "train_batch.png", "confusion_matrix.png"),
    *("calibration.png", "predictions.png", "worst_mistakes.png"),
    *("gradcam.png", "filters.png", "feature_maps.png"),
}

SECTIONS = (
    *("Results", "Curves", "Confusions", "Worst mistakes", "Sample", "Training images", "Network"),
    *("Classes", "Calibration", "Model", "Data", "Config", "Environment", "Next"),
)


def read_plots(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path).convert("RGB")) for path in folder.iterdir()}


def write_images(folder: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng(label * 100 + i).integers(0, 200 + 40 * label, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_a_report_needs_no_images_no_model_and_no_old_plots(ranks) -> None:
    write_images(ranks.folder / "images")
    ranks.run("train", "--data", "images", "--name", "r", "train.num_steps=4", "train.num_threads=1", "run.trackers=[]")
    run_dir = ranks.folder / "runs" / "r"
    before, page = read_plots(run_dir / "plots"), (run_dir / "report.html").read_text(encoding="utf-8")
    assert set(before) == PLOTS
    newest = max((run_dir / "plots").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "curves.png", "the senders wait for it"
    assert all(f"<h2>{title}</h2>" in page for title in SECTIONS) and len(page) < 5e6
    (run_dir / "report.html").unlink()
    for gone in ("runs/r/plots", "images", "cache", "runs/r/model", "runs/r/checkpoints"):
        shutil.rmtree(ranks.folder / gone)
    moved = run_dir.rename(ranks.folder / "moved")
    told = ranks.run("report", "moved")
    after = read_plots(moved / "plots")
    assert set(after) == PLOTS and all(np.array_equal(after[name], before[name]) for name in PLOTS)
    assert all(f"moved/plots/{name}" in told for name in PLOTS) and "moved/report.html" in told
    assert all(f"<h2>{title}</h2>" in (moved / "report.html").read_text(encoding="utf-8") for title in SECTIONS)
    for split, measured in read_json(moved / "metrics.json").items():
        found = load_predictions(moved, split)
        assert found is not None and found.probs.shape == (measured["count"], 2)
        confusion, bins = confusion_matrix(found, 2), calibration_bins(found)
        assert confusion.trace() / confusion.sum() == measured["accuracy"]
        assert np.abs(bins[1] - bins[0]).sum() / measured["count"] == pytest.approx(measured["ece"], abs=1e-12)


def test_a_run_that_has_not_finished_has_curves(ranks) -> None:
    shutil.copytree(OLD_RUN, ranks.folder / "old")
    assert ranks.run("report", "old").strip().endswith("old/plots/curves.png")
    (ranks.folder / "old" / "metrics.csv").unlink()
    assert "old has no metrics.csv yet" in ranks.run("report", "old", expect=66)
    assert "no such run folder" in ranks.run("report", "nope", expect=66)


def test_plots_that_a_longer_run_has_no_more_are_removed(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    for name in ("worst_mistakes.png", "confusion_matrix.png", "calibration.png", "mine.png"):
        (tmp_path / "plots" / name).touch()
    with pytest.raises(MissingInputError):
        write_report(tmp_path)
    assert (tmp_path / "plots" / "worst_mistakes.png").exists()
    for name in ("metrics.csv", "classes.json"):
        shutil.copy(OLD_RUN / name, tmp_path)
    write_report(tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"curves.png", "mine.png"}


def make_predictions() -> Predictions:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.0, 1.0]], np.float32)
    preds = probs.argmax(1)
    return Predictions(np.array(list("abcd")), np.array([0, 0, 0, 1]), preds, probs.max(1).astype(float), probs)


def test_captions_say_what_was_predicted_and_what_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distcls.report import run_report
    from distcls.runs.results import Pictures, save_pictures, save_predictions

    save_predictions(tmp_path, "test", make_predictions())
    save_pictures(tmp_path, {"predictions": Pictures([np.full((8, 8, 3), 90, np.uint8)] * 2, places=[0, 1])})
    shutil.copy(OLD_RUN / "metrics.csv", tmp_path)
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    captions: list[str] = []
    draw = run_report.plot_images
    monkeypatch.setattr(run_report, "plot_images", lambda *given: (captions.extend(given[1]), draw(*given)))
    write_report(tmp_path)
    assert captions == ["predicted cat (90%)\na", "predicted dog (80%)\ntrue cat\nb"]
    (tmp_path / "alone").mkdir()
    pixels = read((tmp_path / "plots" / "predictions.png").rename(tmp_path / "alone" / "predictions.png"))
    assert count_color(pixels, GREEN) > 500 and count_color(pixels, RED) > 500


def test_plots_of_before_a_run_was_made_longer_are_removed_until_it_has_finished(tmp_path: Path) -> None:
    from distcls.runs.results import Pictures, save_pictures, save_predictions

    save_predictions(tmp_path, "test", make_predictions())
    pixels = [np.full((8, 8, 3), 90, np.uint8)]
    save_pictures(tmp_path, {"predictions": Pictures(pixels, places=[0]), "train_batch": Pictures(pixels, ["cat"])})
    shutil.copy(OLD_RUN / "metrics.csv", tmp_path)
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    kept, gone = {"curves.png", "train_batch.png"}, {"confusion_matrix.png", "calibration.png", "predictions.png"}
    for state, drawn in (("finished", kept | gone), ("preempted", kept), ("finished", kept | gone)):
        (tmp_path / "status.json").write_text(f'{{"state": "{state}"}}')
        assert set(write_report(tmp_path)) == {"report.html", *(f"plots/{name}" for name in drawn)}
        assert {path.name for path in (tmp_path / "plots").iterdir()} == drawn
