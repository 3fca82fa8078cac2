"""The recording in the README: what a terminal showed, and when."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.dom.minidom
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "docs" / "make_pictures.py"
LIVE = "\r\x1b[2K"


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("make_pictures", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_pictures"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_each_line_is_recorded_from_its_start_to_its_end(pictures):
    output = [(0.0, "plan\r\n"), (1.0, "step 1"), (2.0, LIVE + "step 2"), (3.0, LIVE + "row\r\nstep 3"), (4.0, LIVE)]
    found = [(line.row, line.text, line.start, line.end) for line in pictures.lines_of(output)]
    assert found == [
        (0, "plan", 0.0, None),
        (1, "step 1", 1.0, 2.0),
        (1, "step 2", 2.0, 3.0),
        (1, "row", 3.0, None),
        (2, "step 3", 3.0, 4.0),
    ]


def test_the_pace_is_the_same_however_long_the_demo_took(pictures):
    lines = [pictures.Line(0, f"step {s}", s, s + 1) for s in range(1000)] + [pictures.Line(0, "end", 1000)]
    paced = pictures.paced(lines)
    assert paced[-1].start == pictures.PLAYING
    states = paced[:-1]
    assert all(line.end - line.start >= pictures.SHORTEST * 0.99 for line in states[1:])
    assert [line.start for line in states[1:]] == pytest.approx([line.end for line in states[:-1]])


def test_the_image_is_valid_and_keeps_colors_and_columns(pictures):
    lines = [pictures.Line(0, "\x1b[36mdata\x1b[0m     <a & b>", 0.0), pictures.Line(1, "later", 2.0)]
    image = pictures.draw(lines)
    xml.dom.minidom.parseString(image)
    assert re.search(r'<tspan x="0"><tspan fill="#\w+">data</tspan></tspan><tspan x="70.2">&lt;a &amp; b&gt;', image)
    assert 'to="hidden" begin="play.begin" dur="2.00s"' in image


def test_committed_pictures_are_small():
    files = [FILE.parent / name for name in ("demo.svg", "report.png", "report-page.png")]
    assert sum(file.stat().st_size for file in files) < 400_000
