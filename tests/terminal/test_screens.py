"""A notebook redraws one live line below the permanent ones."""

from __future__ import annotations

from terminals import NotebookStream, as_shown

from distcls.terminal.progress import Progress
from distcls.terminal.screens import Field, NotebookScreen, open_screen


def test_in_a_notebook_the_live_line_is_redrawn_below_permanent_lines() -> None:
    stream = NotebookStream()
    screen = open_screen(stream)
    assert isinstance(screen, NotebookScreen)
    screen.draw([Field(0, "step", "1/20000"), Field(1, "loss", "2.3")])
    screen.draw([Field(0, "step", "2/20000")])
    assert as_shown(stream.getvalue()) == ["step 2/20000"], "what was longer is overwritten"
    screen.say("a row")
    screen.draw([Field(0, "step", "3/20000")])
    assert as_shown(stream.getvalue()) == ["a row", "step 3/20000"]
    screen.clear()
    assert as_shown(stream.getvalue()) == ["a row", ""]
    assert "\x1b" not in stream.getvalue()


def test_a_notebook_is_not_redrawn_at_every_step() -> None:
    stream = NotebookStream()
    progress = Progress(stream)
    progress.start(1000, 0)
    for step in range(1, 900):
        if progress.is_time_for(step):
            progress.update(step, 0.1, 1, 0.5)
    assert stream.getvalue().count("\r") <= 3
    assert len(as_shown(stream.getvalue())) == 1


def test_long_lines_are_wrapped_in_a_notebook() -> None:
    stream = NotebookStream()
    Progress(stream).note("word " * 40)
    assert max(map(len, as_shown(stream.getvalue()))) <= 100
