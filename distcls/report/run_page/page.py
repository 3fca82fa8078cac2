"""Writes report.html of a run from its folder alone: this needs neither its images nor its model."""

from __future__ import annotations

from pathlib import Path

from distcls.errors import DiskError
from distcls.report.html.page import Section, write_page
from distcls.report.run_page.about import (
    config_section,
    data_section,
    environment_section,
    model_section,
    next_section,
)
from distcls.report.run_page.curves import curve_section
from distcls.report.run_page.facts import RunFacts, read_run
from distcls.report.run_page.pictures import picture_sections
from distcls.report.run_page.results import (
    calibration_section,
    class_section,
    confusion_section,
    metric_section,
    summary,
)
from distcls.runs.results import UNREADABLE


def write_run_page(run_dir: Path) -> RunFacts:
    """Write report.html: what there is of the run, finished or not; return what it shows. Raises DiskError."""
    try:
        facts = read_run(run_dir).of_current_weights()
        sections = _sections(facts)
        about = summary(facts)
    except (AttributeError, IndexError, *UNREADABLE) as error:
        raise DiskError(
            f"a file in {run_dir} is damaged, or not one of a run ({type(error).__name__}: {error}), so there is no "
            "report. Resume the run, or take a whole copy of its folder."
        ) from error
    write_page(run_dir / "report.html", facts.name, sections, about, "Training run")
    return facts


def _sections(facts: RunFacts) -> list[Section]:
    found = [
        metric_section(facts),
        curve_section(facts),
        confusion_section(facts),
        *picture_sections(facts),
        class_section(facts),
        calibration_section(facts),
        model_section(facts),
        data_section(facts),
        config_section(facts),
        environment_section(facts),
        next_section(facts),
    ]
    return [section for section in found if section is not None]
