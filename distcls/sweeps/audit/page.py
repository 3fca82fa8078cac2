"""Shows what an audit found on a web page, with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from distcls.config.wording import count
from distcls.data.decoding.decode import BadImageError
from distcls.report.html.page import Section, joined, write_page
from distcls.report.html.tables import number, table
from distcls.report.html.thumbnails import Figure, Thumbnail, gallery, sheet_style, thumbnails
from distcls.runs.results import Pictures, load_sheets, save_pictures
from distcls.sweeps.audit.findings import Findings
from distcls.sweeps.audit.near_duplicates import Pair

MOST_ERRORS, MOST_PAIRS = 200, 80
"""Pictures on the page: of label errors, and pairs of each kind."""

SHOWN_AT_FIRST = 60

MOST_CONFUSIONS = 15

PAIRS = {
    "conflicts": ("Near-duplicates with different labels", "At least one label of each pair is wrong."),
    "leaks": (
        "Near-duplicates across splits or in folds",
        "The second image does not really test a model that was trained on the first. In different folds, such pairs "
        "make the cross-validation look a little too good; in the same fold, the next run's splits may separate them.",
    ),
    "others": (
        "Other near-duplicates",
        "In one split and with the same label: they count twice, and do no other harm.",
    ),
}
"""Title and note of each kind of pair, by the method of Findings that returns it."""


def write_audit_page(findings: Findings, folder: Path, title: str, summary: str, commands: Sequence[str]) -> None:
    """Write audit.html and its pictures. Raises DiskError."""
    errors = findings.listed()[:MOST_ERRORS]
    pairs = {kind: getattr(findings, kind)()[:MOST_PAIRS] for kind in PAIRS}
    images = {
        "errors": errors,
        **{kind: [i for p in some for i in (p.first, p.second)] for kind, some in pairs.items()},
    }
    shown = _thumbnails(findings, images, folder)
    sections = [_error_section(findings, shown["errors"])]
    sections += [_pair_section(findings, kind, pairs[kind], shown[kind]) for kind in PAIRS if pairs[kind]]
    next_steps = Markup("<pre>{}</pre>").format("\n".join(commands))
    sections.append(Section("Next", next_steps, "Look at the list before you leave its images out, or correct labels."))
    write_page(folder / "audit.html", title, sections, summary, "Audit of a data set")


def _thumbnails(
    findings: Findings, images: dict[str, list[int]], folder: Path
) -> dict[str, tuple[Markup, list[Thumbnail]]]:
    """Store pictures of these images; return the style of each sheet, and its thumbnails in order."""
    sheets = {kind: Pictures([_picture(findings, i) for i in some]) for kind, some in images.items() if some}
    save_pictures(folder, sheets)
    loaded = load_sheets(folder)
    return {
        kind: (sheet_style(kind, loaded[kind]), thumbnails(kind, loaded[kind])) if kind in sheets else (Markup(), [])
        for kind in images
    }


def _picture(findings: Findings, image: int) -> np.ndarray:
    try:
        return findings.gallery.picture(image)
    except (BadImageError, OSError):  # it went bad since it was compared
        return findings.gallery.blank()


def _error_section(findings: Findings, shown: tuple[Markup, list[Thumbnail]]) -> Section:
    title, listed = "Probable label errors", findings.errors.listed.tolist()
    if not listed:
        return Section(title, Markup("<p>None found.</p>"))
    style, thumbs = shown
    names = findings.gallery.class_names
    figures = []
    for row, image, thumb in zip(listed, findings.listed(), thumbs, strict=False):
        label, suggested = findings.label_of(image), names[findings.errors.suggested[row]]
        score = f"score {findings.errors.scores[row]:.2f}"
        lines = [(f"{suggested}?", ""), (f"labeled {label}", "dim"), (score, "dim")]
        figures.append(Figure([thumb], [*lines, (findings.gallery.names[image], "dim name")]))
    more = f" The first {len(thumbs)} are shown; the list has all." if len(listed) > len(thumbs) else ""
    note = (
        f"{count(len(listed), 'label')}, the least credible first, each with the class that a model suggests which was "
        f"not trained on the image.{more}"
    )
    return Section(title, joined([style, gallery(figures, SHOWN_AT_FIRST), _confusions(findings)]), note)


def _confusions(findings: Findings) -> Markup:
    """Return a table of what is labeled as what."""
    names, errors = findings.gallery.class_names, findings.errors
    pairs = Counter(
        (findings.label_of(image), names[errors.suggested[row]])
        for image, row in zip(findings.listed(), errors.listed.tolist(), strict=True)
    )
    rows = [[label, suggested, number(n, f"{n:,}")] for (label, suggested), n in pairs.most_common(MOST_CONFUSIONS)]
    head = Markup("<h3>The most frequent confusions</h3>")
    return joined([head, table(["label", "suggested", "images"], rows)])


def _pair_section(
    findings: Findings, kind: str, pairs: Sequence[Pair], shown: tuple[Markup, list[Thumbnail]]
) -> Section:
    title, note = PAIRS[kind]
    style, thumbs = shown
    figures = []
    for place, pair in enumerate(pairs):
        mirrored = ", mirrored" if pair.is_mirrored else ""
        lines = [(f"similarity {pair.similarity:.2f}{mirrored}", "dim")]
        for image in (pair.first, pair.second):
            lines += [
                (f"{findings.label_of(image)}, {findings.gallery.places[image]}", ""),
                (findings.gallery.names[image], "dim name"),
            ]
        figures.append(Figure(thumbs[2 * place : 2 * place + 2], lines))
    total = len(getattr(findings, kind)())
    more = f" The first {len(pairs)} of {total:,} are shown; duplicates.csv lists all." if total > len(pairs) else ""
    return Section(title, joined([style, gallery(figures, SHOWN_AT_FIRST)]), note + more)
