"""Audits the images of a run or of a cross-validation: the steps, in order."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from distcls.config.loading import read_config
from distcls.config.settings import DataConfig
from distcls.config.wording import count
from distcls.config.yaml_text import quoted
from distcls.data.exclusion import read_names
from distcls.files.atomic import naming_disk_errors, printable
from distcls.runs.status import is_finished, read_object
from distcls.sweeps.audit.findings import Finding, Findings, write_findings, write_pairs
from distcls.sweeps.audit.gallery import LARGEST_PICTURE, Gallery, open_gallery
from distcls.sweeps.audit.label_errors import find_label_errors
from distcls.sweeps.audit.near_duplicates import find_near_duplicates
from distcls.sweeps.audit.out_of_fold import load_out_of_fold
from distcls.sweeps.audit.page import write_audit_page
from distcls.sweeps.crossval import fold_folders
from distcls.terminal.progress import Progress

SHOWN = 10
"""Findings of each kind on the terminal."""


def audit_runs(run_dirs: Sequence[Path], config: DataConfig, folder: Path, progress: Progress) -> Findings:
    """Print what is wrong with the images of these runs; write audit.html, audit.csv and duplicates.csv to the folder.

    config: where the images are. Raises what the steps raise, and DiskError if the folder cannot be written.
    """
    predicted = load_out_of_fold(run_dirs)
    size = read_object(run_dirs[0] / "preprocessing.json").get("image_size", LARGEST_PICTURE)
    gallery = open_gallery(
        config, size, predicted, run_dirs[0], lambda done, total: progress.working("decoding images", done, total)
    )
    errors = find_label_errors(predicted.labels, predicted.probs)
    pairs = find_near_duplicates(
        gallery.squares(), lambda done, total: progress.working("comparing images", done, total)
    )
    findings = Findings(gallery, errors, pairs)
    exclude = findings.to_exclude()
    with naming_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    already = [] if config.exclude is None else read_names(config.exclude)
    before = [Finding(name, "", "", 1.0, "excluded before") for name in already]
    exclude_file = write_findings([*exclude, *before], folder / "audit.csv")
    write_pairs(findings, folder / "duplicates.csv")
    commands = _commands(run_dirs, gallery, config, exclude_file)
    write_audit_page(findings, folder, _name(run_dirs, config), _summary(findings, len(run_dirs)), commands)
    _print(findings, exclude, run_dirs, exclude_file, progress)
    if len(gallery.predicted) < gallery.num_images:
        progress.warning(
            f"the other {gallery.num_images - len(gallery.predicted):,} images were trained on, so their labels cannot "
            f"be judged: {_who_can_judge(gallery, config)}"
        )
    progress.note("next")
    for command in commands:
        progress.note(f"  {command}")
    return findings


def _summary(findings: Findings, num_runs: int) -> str:
    """Return what the page says first."""
    gallery, pairs = findings.gallery, findings.pairs
    audited = len(gallery.predicted)
    of_all = "all" if audited == gallery.num_images else f"{audited:,} of"
    return (
        f"{_labels(findings)}. {count(len(pairs), 'pair')} of images show nearly the same picture, "
        f"{len(findings.conflicts()):,} of them with different labels and {len(findings.leaks()):,} more across splits "
        f"or in folds. The labels of {of_all} {gallery.num_images:,} images could be judged, by "
        f"{count(num_runs, 'run')} that had not been trained on them."
    )


def _labels(findings: Findings) -> str:
    """Return how many labels are listed, and how many of them are expected to be wrong."""
    errors, audited = findings.errors, len(findings.gallery.predicted)
    listed, wrong = len(errors.listed), errors.scores[errors.listed].sum()
    look = f"{listed:,} of {count(audited, 'label')} {'looks' if listed == 1 else 'look'} wrong"
    expected = f"; about {wrong:,.0f} of these really are" if listed > 1 else ""
    return f"{look} ({listed / max(audited, 1):.1%}){expected}"


def _print(
    findings: Findings, exclude: Sequence[Finding], run_dirs: Sequence[Path], exclude_file: Path, progress: Progress
) -> None:
    gallery, audited = findings.gallery, len(findings.gallery.predicted)
    listed, conflicts, leaks = len(findings.errors.listed), findings.conflicts(), findings.leaks()
    progress.header(
        [
            (
                "audited",
                f"the labels of {audited:,} of {count(gallery.num_images, 'image')}, by {count(len(run_dirs), 'run')}",
            ),
            ("labels", _labels(findings)),
            (
                "pairs",
                f"{len(findings.pairs):,} near-duplicates: {len(conflicts):,} with different labels, {len(leaks):,} "
                "more across splits or in folds",
            ),
            ("page", str(exclude_file.with_name("audit.html"))),
        ]
    )  # it ends with an empty line
    errors = [f"{one.image}: {one.label}, probably {one.suggested}" for one in exclude[:listed]]
    duplicates = [f"{one.image}: {one.reason}" for one in exclude[listed:]]
    for title, lines in (("probable label errors", errors), ("near-duplicates to leave out", duplicates)):
        if lines:
            progress.note(title)
            for line in lines[:SHOWN]:
                progress.note(printable(f"  {line}"))
            if len(lines) > SHOWN:
                progress.note(f"  and {len(lines) - SHOWN:,} more in {exclude_file}")
            progress.note("")


def _who_can_judge(gallery: Gallery, config: DataConfig) -> str:
    """Return where the labels that these runs cannot judge may be judged."""
    if config.fold is not None:
        return "all folds of the cross-validation, audited together, judge all of them"
    if gallery.has_own_val:
        return "the folds of a cross-validation could, but data with a val split of its own cannot be cut into folds"
    return "the folds of a cross-validation judge all of them"


def _commands(run_dirs: Sequence[Path], gallery: Gallery, config: DataConfig, exclude_file: Path) -> list[str]:
    """Return what to type next. config: where the images are."""
    name, file = _name(run_dirs, config), run_dirs[0] / "config.yaml"
    is_moved = config.root is not None and config.root != read_config(file).data.root
    moved = ["--data", str(config.root)] if is_moved else []
    again, commands, folds = ["-c", str(file), *moved], [], None
    if len(gallery.predicted) < gallery.num_images and config.fold is not None:
        folds = run_dirs[0].with_name(name)
        for fold, folder in enumerate(fold_folders(folds, config.folds or 0)):
            if not is_finished(folder):
                where = [f"run.dir={quoted(str(folder))}", f"data.fold={fold}"]
                commands.append(["distcls", "train", *again, *where])
    elif len(gallery.predicted) < gallery.num_images and not gallery.has_own_val:
        folds = Path("runs", f"{name}-folds")
        new = ["run.dir=null", "--name", folds.name, "data.test_fraction=0"]
        commands.append(["distcls", "crossval", *again, *new])
    if folds is not None:
        commands.append(["distcls", "audit", str(folds), *moved])
        exclude_file = folds.with_name(f"{folds.name}-audit") / "audit.csv"  # of all images
    clean = ["run.dir=null", "--name", f"{name}-clean", f"data.exclude={quoted(str(exclude_file))}"]
    if config.fold is not None:
        clean += ["data.folds=null", "data.fold=null"]
        if not any(split.name == "test" for split in gallery.splits):
            clean.append(f"data.test_fraction={DataConfig().test_fraction:g}")
    commands.append(["distcls", "train", *again, *clean])
    return [shlex.join(words) for words in commands]


def _name(run_dirs: Sequence[Path], config: DataConfig) -> str:
    """Return the name of a run or of the cross-validation that these are folds of."""
    return run_dirs[0].name.removesuffix(f"-fold{config.fold}")
