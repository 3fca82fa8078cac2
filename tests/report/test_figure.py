"""Plots are drawn with the fonts that there are, and written whole or not at all."""

from __future__ import annotations

import pytest

from distcls.errors import DiskError
from distcls.report.curves import plot_curves
from distcls.report.figure import _fonts


def test_fonts_with_more_scripts_are_used_where_they_are_installed(monkeypatch):
    monkeypatch.setattr("distcls.report.figure.get_font_names", lambda: ["Papyrus", "Malgun Gothic", "DejaVu Sans"])
    _fonts.cache_clear()
    assert _fonts() == ["DejaVu Sans", "Malgun Gothic"]
    _fonts.cache_clear()


def test_a_plot_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"curves\.png"):
        plot_curves([], tmp_path / "file" / "curves.png")
