"""Draws the report of a run from its folder alone, so that it can be made again without its images or model."""

from __future__ import annotations

from pathlib import Path

from distcls.errors import MissingInputError
from distcls.inference.metrics import calibration_error
from distcls.report.calibration import plot_calibration
from distcls.report.confusion import plot_confusion
from distcls.report.counting import calibration_bins
from distcls.report.curves import plot_curves
from distcls.report.pictures import plot_images, prediction_title
from distcls.report.run_page.facts import RunFacts
from distcls.report.run_page.page import write_run_page
from distcls.runs.results import Pictures, Predictions, cut

HEADINGS = {
    "train_batch": "Training images, as the model saw them",
    "predictions": "Predictions on the {split} split",
    "worst_mistakes": "The most confident mistakes on the {split} split",
    "gradcam": "Where the model saw the class that it predicted (Grad-CAM)",
    "filters": "Filters of the first layer: gray is 0, brighter is positive",
    "feature_maps": "Feature maps of one image, from the first layers to the last",
}
"""The headings of the pages of images, by the name under which a run stores them."""

OF_PREDICTIONS = ("confusion_matrix.png", "calibration.png")
"""The plots about the predictions on test or val."""


def write_report(run_dir: Path) -> list[str]:
    """Write report.html and draw plots/; return the files: curves, training images, and those about test (or val).

    For an unfinished run, there are only the curves and what is known of the data. Raises MissingInputError if there is
    nothing to draw, and DiskError if the run is damaged or its folder cannot be written.
    """
    if not (run_dir / "metrics.csv").exists():
        raise MissingInputError(f"{run_dir} has no metrics.csv yet, so there is nothing to draw.")
    facts = write_run_page(run_dir)
    return ["report.html", *(f"plots/{name}" for name in _draw_plots(facts))]


def _draw_plots(facts: RunFacts) -> list[str]:
    folder = facts.dir / "plots"
    drawn = ["curves.png", *_draw_predictions(facts, folder)]
    for name in (*OF_PREDICTIONS, *(f"{name}.png" for name in HEADINGS)):  # left from before the run was extended
        if name not in drawn:
            (folder / name).unlink(missing_ok=True)
    # Drawn last, because the senders wait for it.
    plot_curves(facts.rows, folder / "curves.png", facts.kept_step)
    return drawn


def _draw_predictions(facts: RunFacts, folder: Path) -> list[str]:
    drawn, found, split = [], facts.found, facts.split
    if split is not None and found is not None and facts.confusion is not None:
        matrix, calibration = OF_PREDICTIONS
        plot_confusion(facts.confusion, facts.class_names, split, folder / matrix)
        bins = calibration_bins(found)
        ece = calibration_error(bins[0], bins[1], max(len(found.labels), 1))
        plot_calibration(*bins, ece, split, folder / calibration)
        drawn += OF_PREDICTIONS
    for name, sheet in facts.sheets.items():
        if name in HEADINGS:
            pictures = cut(sheet)
            captions, colors = list(pictures.captions) or [""] * len(pictures.pixels), None
            if found is not None and pictures.places:
                captions, colors = _captions(pictures, found, facts.class_names)
            heading = HEADINGS[name].format(split=split)
            plot_images(pictures.pixels, captions, folder / f"{name}.png", heading, colors)
            drawn.append(f"{name}.png")
    return drawn


def _captions(pictures: Pictures, found: Predictions, class_names: list[str]) -> tuple[list[str], list[str]]:
    """Return each image's title (see prediction_title) and its color: green if the prediction is right, else red."""
    captions, colors = [], []
    for place in pictures.places:
        pred, label = class_names[found.preds[place]], class_names[found.labels[place]]
        is_right = bool(found.preds[place] == found.labels[place])
        captions.append(prediction_title(pred, float(found.confidence[place]), label, str(found.names[place])))
        colors.append("green" if is_right else "red")
    return captions, colors
