"""The part of a run's page about its metrics: the sentence, the numbers, each class, confusions and calibration."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from distcls.config.metrics import METRICS
from distcls.config.wording import count
from distcls.inference.metrics import calibration_error, confused_classes, measure_classes
from distcls.report.counting import calibration_bins, confidence_at
from distcls.report.html.page import Section, data_uri, grid, joined, render
from distcls.report.html.tables import Cell, table
from distcls.report.html.thumbnails import Thumbnail, sheet_style, thumbnails
from distcls.report.run_page.facts import RunFacts

MOST_CLASSES = 50
"""Up to this many classes, the confusion matrix is a table; above, a picture."""

MOST_COUNTS = 20
"""Up to this many classes, its cells show their counts."""

SHORT = 2
"""Characters of class names that fit above a column without being turned."""

MOST_CELLS = 1000
"""Confusions that the page knows by their count, in the picture of many classes."""

MOST_WORST = 20
"""Rows of the list of confusions."""

STATES = {
    "running": "is still running",
    "preempted": "was stopped",
    "killed": "was killed",
    "failed": "failed",
    "finished": "finished without predictions",
}
"""What became of a run whose results are not there, by the state in status.json."""

EXAMPLE_SIDE = 80
"""Longest side of an example of a confusion, in CSS pixels."""


def summary(facts: RunFacts) -> str:
    """Return one or two sentences about a run: what it is, how good, and what it confuses most."""
    if facts.confusion is None:
        return _so_far(facts)
    right, total = int(facts.confusion.trace()), int(facts.confusion.sum())
    model = f"{facts.config.model.name} tells" if facts.config else "The model tells"
    lines = [
        f"{model} {count(len(facts.class_names), 'class')} apart and is right for {right / max(total, 1):.2%} of the "
        f"{facts.split} images ({right:,} of {total:,})."
    ]
    worst = confused_classes(facts.confusion)
    if worst:
        i, j = worst[0]
        times = count(int(facts.confusion[i, j]), "time")
        lines.append(
            f"Its most frequent mistake is to take {facts.class_names[i]} for {facts.class_names[j]}: {times}."
        )
    else:
        lines.append("It makes no mistake on them.")
    return " ".join(lines)


def _so_far(facts: RunFacts) -> str:
    step = facts.status.get("step")
    where = f" at step {step:,}" if isinstance(step, int) else ""
    if facts.state == "finished" and not facts.metrics:
        return f"This run finished{where}. No val or test images were set aside, so it was not measured."
    evaluated = [row for row in facts.rows if row["split"] == "val" and row.get("accuracy") is not None]
    last = f" The last evaluation found {evaluated[-1]['accuracy']:.2%} of the val images right." if evaluated else ""
    state = STATES.get(facts.state or "", "has not finished")
    return f"This run {state}{where}, so this page shows only what there is so far.{last}"


def metric_section(facts: RunFacts) -> Section | None:
    """Return the section with all metrics of each split; None for a run that has none yet."""
    if not facts.metrics:
        return None
    best = facts.metrics.get("test") or facts.metrics.get("val") or {}
    name = "test" if "test" in facts.metrics else "val"
    # With five classes or fewer, the top-5 accuracy is always 1.
    metrics = [metric for metric in METRICS.values() if metric.name != "top5" or len(facts.class_names) > 5]
    shown = [metric for metric in metrics if metric.in_summary and metric.better and metric.name in best]
    tiles = [
        (f"{name} {metric.title}", metric.text(best[metric.name]), _interval(best, metric.name)) for metric in shown
    ]
    splits = list(facts.metrics)
    rows = [
        [metric.title, *(_metric_cell(facts.metrics[split], metric.name) for split in splits)]
        for metric in metrics
        if any(metric.name in facts.metrics[split] for split in splits)
    ]
    everything = table(["metric", *splits], rows, sortable=False)
    body = render("tiles.html", tiles=tiles)
    body += Markup("<details><summary>All metrics</summary>{}</details>").format(everything)
    return Section("Results", body)


def _metric_cell(values: Mapping[str, Any], name: str) -> Cell:
    if name not in values:
        return Cell("–", style="dim")
    interval = _interval(values, name)
    return Cell(METRICS[name].text(values[name]) + (f" ({interval})" if interval else ""), values[name])


def _interval(values: Mapping[str, Any], name: str) -> str:
    found = values.get("intervals", {}).get(name)
    return f"95 %: {METRICS[name].text(found[0])} to {METRICS[name].text(found[1])}" if found else ""


def class_section(facts: RunFacts) -> Section | None:
    """Return the section with precision, recall and F1 of each class, the worst first."""
    if facts.confusion is None:
        return None
    columns = ("precision", "recall", "f1")
    named = zip(facts.class_names, measure_classes(facts.confusion), strict=True)
    rows = [
        [
            name,
            *(Cell(f"{values[column]:.3f}", values[column], bar=values[column]) for column in columns),
            _count(values),
        ]
        for name, values in sorted(named, key=lambda item: item[1]["f1"])
    ]
    body = table(["class", "precision", "recall", "F1", "images"], rows, tall=True)
    note = f"On the {facts.split} split, the classes with the lowest F1 first. Click on a column to sort by it."
    return Section("Classes", body, note)


def _count(values: Mapping[str, Any]) -> Cell:
    return Cell(f"{values['count']:,}", values["count"])


def confusion_section(facts: RunFacts) -> Section | None:
    """Return the section with the confusion matrix, whose cells show their images when they are clicked on."""
    if facts.confusion is None:
        return None
    few = len(facts.class_names) <= MOST_CLASSES
    worst = confused_classes(facts.confusion)
    shown, style = _examples(facts)
    cells = worst[:MOST_CELLS] + [(i, i) for i in range(len(facts.class_names)) if facts.confusion[i, i]]
    body = render(
        "confusion.html",
        names=facts.class_names if few else [""] * len(facts.class_names),
        matrix=_matrix(facts) if few else None,
        picture=None if few else _picture(facts.confusion),
        with_counts=len(facts.class_names) <= MOST_COUNTS,
        is_short=max(map(len, facts.class_names)) <= SHORT,
        worst=[
            {
                "true": facts.class_names[i],
                "predicted": facts.class_names[j],
                "count": int(facts.confusion[i, j]),
                "cell": f"{i},{j}",
            }
            for i, j in worst[:MOST_WORST]
        ],
        data={
            "names": list(facts.class_names),
            "counts": {f"{i},{j}": int(facts.confusion[i, j]) for i, j in cells},
            "images": shown,
        },
    )
    how = "Click on a cell to see its images." if shown else ""
    note = f"One row per true class of the {facts.split} split, shaded by the share of its row. {how}"
    return Section("Confusions", joined([style, body]), note)


def _matrix(facts: RunFacts) -> list[list[dict[str, Any] | None]]:
    confusion, names = facts.confusion, facts.class_names
    assert confusion is not None
    totals = np.maximum(confusion.sum(1), 1)

    def cell(i: int, j: int) -> dict[str, Any] | None:
        number = int(confusion[i, j])
        if not number:
            return None
        share = number / totals[i]
        tip = f"true {names[i]}\npredicted {names[j]}\n{count(number, 'image')}, {share:.1%} of its class"
        return {"count": f"{number:,}", "shade": round(float(share) ** 0.5, 3), "tip": tip}

    return [[cell(i, j) for j in range(len(names))] for i in range(len(names))]


def _picture(confusion: np.ndarray) -> str:
    """Return the matrix as a picture with one pixel per cell, blue on nothing, so that it suits any background."""
    shares = np.sqrt(confusion / np.maximum(confusion.sum(1, keepdims=True), 1))
    pixels = np.zeros((*confusion.shape, 4), np.uint8)
    pixels[..., :3] = (45, 125, 230)
    pixels[..., 3] = np.where(confusion > 0, 30 + 225 * shares, 0).round()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png")


def _examples(facts: RunFacts) -> tuple[dict[str, list[dict[str, str]]], Markup]:
    """Return the images of each cell, as the page's script needs them, and the style that holds their sheet."""
    sheet, found = facts.sheets.get("confusions"), facts.found
    if sheet is None or found is None:
        return {}, Markup("")
    images: dict[str, list[dict[str, str]]] = {}
    for place, one in zip(sheet.places, thumbnails("confusions", sheet, EXAMPLE_SIDE), strict=True):
        cell = f"{found.labels[place]},{found.preds[place]}"
        about = f"{found.names[place]}\n{found.confidence[place]:.1%} sure"
        images.setdefault(cell, []).append({"class": _class(one), "style": one.style, "tip": about})
    return images, sheet_style("confusions", sheet)


def _class(one: Thumbnail) -> str:
    return f"thumb {one.sheet}{' crisp' if one.is_crisp else ''}"


def calibration_section(facts: RunFacts) -> Section | None:
    """Return the section with the reliability diagram, and a second one if a temperature was fitted."""
    if facts.found is None:
        return None
    charts = list(_reliabilities(facts))
    note = "A calibrated model is right as often as its confidence says: then each bar ends at its orange line."
    return Section("Calibration", grid(charts), note)


def _reliabilities(facts: RunFacts) -> Iterator[Markup]:
    found = facts.found
    assert found is not None
    is_scaled = facts.temperature != 1
    after = confidence_at(found, facts.temperature) if is_scaled else None
    before = "before temperature scaling" if is_scaled else f"on the {facts.split} split"
    yield _reliability(calibration_bins(found), before)
    if after is not None:
        yield _reliability(calibration_bins(found, after), f"with temperature {facts.temperature:.3g}")


def _reliability(bins: Sequence[np.ndarray], when: str) -> Markup:
    """Return the diagram of bins of confidence. Its plot is 376 × 200 units, at (52, 10)."""
    confidence_sum, correct, counts = bins
    total = max(int(counts.sum()), 1)
    width, bars = 376 / len(counts), []
    for place, number in enumerate(counts):
        if not number:
            continue
        accuracy, confidence = correct[place] / number, confidence_sum[place] / number
        bars.append(
            {
                "x": round(52 + place * width, 2),
                "w": round(width, 2),
                "accuracy": round(200 * accuracy, 2),
                "confidence": round(200 * confidence, 2),
                "share": round(44 * number / counts.max(), 2),
                "tip": f"confidence {confidence:.1%}\ncorrect {accuracy:.1%}\n{count(int(number), 'image')}",
            }
        )
    title = f"Reliability {when}: ECE {calibration_error(confidence_sum, correct, total):.4f}"
    return render("reliability.html", title=title, bars=bars)
