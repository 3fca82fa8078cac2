"""Charts hold the values that they draw, whatever the values are."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from distcls.report.html.charts import HEIGHT, MOST_POINTS, WIDTH, Line, line_chart


def text(value: float) -> str:
    return f"{value:.4g}"


def data_of(chart: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json">(.*?)</script>', chart, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_pointer_finds_every_value() -> None:
    chart = line_chart("Loss", [Line("train", [0, 1, 2], [2.5, 1, 0.25]), Line("val", [2], [0.5], 1)], text)
    train, val = data_of(chart)["lines"]
    assert [point[2:] for point in train["points"]] == [["0", "2.5"], ["1", "1"], ["2", "0.25"]]
    assert val["color"] == 1 and val["points"][0][0] == train["points"][2][0]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y, *_ in train["points"])
    assert train["points"][0][1] < train["points"][2][1]  # y of SVG points down


def test_values_that_are_not_finite_are_left_out() -> None:
    chart = line_chart("Loss", [Line("a", [0, 1, 2], [np.nan, 3, np.inf]), Line("b", [0], [np.nan])], text)
    assert [line["name"] for line in data_of(chart)["lines"]] == ["a"] and "NaN" not in chart
    assert "Nothing logged yet" in line_chart("Loss", [Line("a", [], [])], text)


def test_a_constant_and_a_single_point_can_be_drawn() -> None:
    for y in ([0, 0], [5, 5], [-1, -1]):
        assert "nan" not in line_chart("x", [Line("a", [0, 1], y)], text)
    assert "nan" not in line_chart("x", [Line("a", [3], [0.0])], text, from_zero=True)


def test_long_lines_are_thinned_but_keep_their_ends_and_the_star() -> None:
    x = np.arange(10_001)
    chart = line_chart("x", [Line("a", x, x**2, star=1234), Line("steps", x, x, is_faint=True)], text)
    (line,) = data_of(chart)["lines"]
    assert MOST_POINTS <= len(line["points"]) <= MOST_POINTS + 1
    assert {"0", "1234", "1e+04"} <= {point[2] for point in line["points"]}
    assert chart.count("★") == 1 and len(chart) < 60_000


def test_large_ranges_are_logarithmic_unless_something_is_zero() -> None:
    steep = [Line("a", [0, 1, 2], [1000, 1, 0.001])]
    heights = [point[1] for point in data_of(line_chart("x", steep, text, log=True))["lines"][0]["points"]]
    assert abs((heights[0] + heights[2]) / 2 - heights[1]) < 0.2
    flat = [Line("a", [0, 1, 2], [1000, 1, 0])]
    heights = [point[1] for point in data_of(line_chart("x", flat, text, log=True))["lines"][0]["points"]]
    assert heights[2] - heights[1] < 1


def test_tiny_values_keep_their_digits() -> None:
    chart = line_chart("x", [Line("a", [0, 1, 2, 3], [1000, 0.5, 4.2e-5, 2e-6])], "{:.4f}".format, log=True)
    assert [point[3] for point in data_of(chart)["lines"][0]["points"]] == ["1000.0000", "0.5000", "4.2e-05", "2e-06"]
    ticks = re.findall(r'text-anchor="end">([^<]*)</text>', chart)[:-1]  # the last is the name of x
    assert ticks == ["1e-05", "0.0001", "0.001", "0.01", "0.1", "1", "10", "100", "1000"]
    shares = line_chart("x", [Line("a", [0, 1], [0.0005, 0.0])], "{:.2%}".format)
    assert [point[3] for point in data_of(shares)["lines"][0]["points"]] == ["0.05%", "0.00%"]
