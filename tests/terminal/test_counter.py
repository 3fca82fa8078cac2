"""A count is one live line on a terminal; elsewhere, only warnings are seen."""

from __future__ import annotations

import io

import pytest
from terminals import NotebookStream, Terminal, as_shown, visible

from distcls.terminal.counter import Counter


def count_to_the_end(counter: Counter) -> None:
    counter.counted(64)
    counter.warning("a.png: an empty file")
    counter._next_drawing = 0
    counter.counted(128)
    counter.close()


@pytest.mark.parametrize("total", [1000, None])
def test_on_a_terminal(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal(80)
    count_to_the_end(Counter("images", total, terminal.stream))
    shown = visible(terminal.close())
    assert "warning: a.png: an empty file" in shown
    assert ("images 64/1000  6%" if total else "images 64  ") in shown and "/s" in shown
    assert ("left 0:" in shown) == (total is not None)


def test_elsewhere_only_warnings() -> None:
    plain, notebook = io.StringIO(), NotebookStream()
    count_to_the_end(Counter("images", 1000, plain))
    assert plain.getvalue() == "warning: a.png: an empty file\n"
    count_to_the_end(Counter("images", 1000, notebook, has_line=False))
    assert as_shown(notebook.getvalue()) == ["warning: a.png: an empty file", ""]
