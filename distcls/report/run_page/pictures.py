"""The part of a run's page with images: mistakes with Grad-CAM, a sample, training images, filters and feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from markupsafe import Markup

from distcls.report.html.page import Section, joined
from distcls.report.html.thumbnails import SIDE, Figure, Thumbnail, gallery, sheet_style, thumbnails
from distcls.report.run_page.facts import RunFacts
from distcls.runs.results import Predictions

SHOWN = 12
"""Images shown at first; the others can be unfolded."""

FILTER_SIDE = 36
"""Longest side of a filter, in CSS pixels."""

MAP_SIDE = 72
"""Longest side of a feature map, in CSS pixels."""

RUNNERS_UP = 2
"""Further classes named below an image."""


def picture_sections(facts: RunFacts) -> list[Section]:
    """Return the sections with images that the run has kept."""
    heat = _heat(facts)
    found = [
        _predictions(facts, "Worst mistakes", "worst_mistakes", "The mistakes that the model is surest of.", heat),
        _predictions(facts, "Sample", "predictions", "Some images of the split, in order.", heat),
        _training_images(facts),
        _network(facts),
    ]
    sections = [section for section in found if section is not None]
    if heat and sections:  # the first section holds the sheet, for all
        first = sections[0]
        sections[0] = Section(first.title, sheet_style("heat", facts.sheets["gradcam"]) + first.body, first.note)
    return sections


def _heat(facts: RunFacts) -> dict[int, Thumbnail]:
    """Return the Grad-CAM pictures by position in the split."""
    sheet = facts.sheets.get("gradcam")
    return {} if sheet is None else dict(zip(sheet.places, thumbnails("heat", sheet), strict=True))


def _predictions(facts: RunFacts, title: str, name: str, note: str, heat: dict[int, Thumbnail]) -> Section | None:
    sheet, found = facts.sheets.get(name), facts.found
    if sheet is None or found is None or not sheet.places:
        return None
    css = name.replace("_", "")
    figures = []
    for place, image in zip(sheet.places, thumbnails(css, sheet), strict=True):
        pair = [image, heat[place]] if place in heat else [image]
        figures.append(Figure(pair, _lines(found, place, facts.class_names)))
    if heat:
        note += " Beside each: where the model saw the class that it predicted (Grad-CAM; bright is where it looked)."
    elif "gradcam" in facts.left_out:
        note += f" Without Grad-CAM: {facts.left_out['gradcam']}"
    return Section(title, joined([sheet_style(css, sheet), gallery(figures, SHOWN)]), note)


def _lines(found: Predictions, place: int, class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the lines below an image: its predicted class, the true one if it differs, the runners-up and its name."""
    pred, label = int(found.preds[place]), int(found.labels[place])
    lines = [(f"{class_names[pred]} {found.confidence[place]:.1%}", "good" if pred == label else "bad")]
    if pred != label:
        lines.append((f"true {class_names[label]}", ""))
    for other, share in _runners_up(found, place):
        if share >= 0.005:
            lines.append((f"{class_names[other]} {share:.1%}", "dim"))
    return [*lines, (str(found.names[place]), "dim name")]


def _runners_up(found: Predictions, place: int) -> list[tuple[int, float]]:
    probs = found.probs[place].astype(float)
    order = np.argsort(-probs, kind="stable")[: RUNNERS_UP + 1]
    ids = order if found.classes is None else found.classes[place][order]
    ranked = [(int(i), float(probs[k])) for i, k in zip(ids, order, strict=True)]
    return [one for one in ranked if one[0] not in (found.preds[place], found.labels[place])][:RUNNERS_UP]


def _training_images(facts: RunFacts) -> Section | None:
    sheet = facts.sheets.get("train_batch")
    if sheet is None:
        return None
    figures = [
        Figure([image], [(line, "") for line in caption.split("\n")])
        for image, caption in zip(thumbnails("batch", sheet, SIDE * 0.75), sheet.captions, strict=True)
    ]
    note = "The first training images as the model saw them, with all augmentation."
    return Section("Training images", joined([sheet_style("batch", sheet), gallery(figures, SHOWN)]), note)


def _network(facts: RunFacts) -> Section | None:
    """Return the section with the first layer's filters, and the feature maps of one image."""
    parts = []
    filters, maps = facts.sheets.get("filters"), facts.sheets.get("feature_maps")
    if filters is not None:
        shown = [Figure([one], []) for one in thumbnails("filters", filters, FILTER_SIDE)]
        parts += [
            sheet_style("filters", filters),
            Markup("<h3>Filters of the first layer</h3><p class=note>Gray is 0, brighter is positive.</p>"),
            gallery(shown),
        ]
    if maps is not None:
        images = thumbnails("maps", maps, MAP_SIDE)
        parts += [sheet_style("maps", maps), Markup("<h3>Feature maps of one image</h3>")]
        for caption, group in groupby(zip(maps.captions, images, strict=True), key=lambda pair: pair[0]):
            parts.append(Markup("<p class=note>{}</p>").format(caption.replace("\n", ": ")))
            parts.append(gallery([Figure([image], []) for _, image in group]))
    if not parts and "layers" in facts.left_out:
        parts = [Markup("<p>Left out: {}</p>").format(facts.left_out["layers"])]
    if not parts:
        return None
    return Section("Network", joined(parts), "Of each layer, the maps that vary most over the image.")
