"""Columns line up, fit the terminal, and shorten text before anything else."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from distcls.terminal.columns import lay_out, three_digits

ROWS = [["conv", "Conv2d", "9,408"], ["a_very_long_name_of_a_layer", "Sequential", "11,689,512"], ["层", "", ""]]


def test_text_is_aligned_left_and_numbers_right():
    assert lay_out(["layer", "type", "parameters"], ROWS, 2, 80) == [
        "layer                        type        parameters",
        "conv                         Conv2d           9,408",
        "a_very_long_name_of_a_layer  Sequential  11,689,512",
        "层",
    ]


@pytest.mark.parametrize("width", [40, 47, 50])
def test_a_narrow_terminal_shortens_the_widest_text(width):
    lines = lay_out(["layer", "type", "parameters"], ROWS, 2, width)
    assert max(map(cell_len, lines)) == width
    assert "…" in lines[2] and "Sequential" in lines[2] and "11,689,512" in lines[2]


def test_numbers_are_never_shortened():
    assert lay_out(["layer", "n"], [["a_very_long_name", "123,456,789"]], 1, 10)[1] == "a_very_…  123,456,789"


@pytest.mark.parametrize(
    ("number", "text"), [(0.5452, "0.545"), (3.628, "3.63"), (86.57, "86.6"), (157.2, "157"), (1843.4, "1,843")]
)
def test_numbers_have_three_digits(number, text):
    assert three_digits(number) == text
