"""What the terminal shows of a table beyond its text."""

from __future__ import annotations

import pytest
from made_runs import make_run

from distcls.report.comparison import terminal
from distcls.report.comparison.table import build_table
from distcls.terminal.screens import NoScreen


class Styled(NoScreen):
    """A screen that keeps what it says, with the style."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def say(self, text: str, style: str = "", label_width: int = 0) -> None:
        self.said.append((text, style))


@pytest.mark.parametrize(
    ("sort", "reverse", "best"),
    [("accuracy", False, "b"), ("accuracy", True, "b"), ("loss", True, "b"), ("optim.lr", False, None)],
)
def test_the_best_row_is_green_wherever_it_stands(tmp_path, monkeypatch, sort, reverse, best) -> None:
    for name, lr, accuracy in (("a", 0.1, 0.8), ("b", 0.2, 0.95), ("c", 0.3, 0.9)):
        make_run(tmp_path / name, f"optim.lr={lr}", accuracy=accuracy)
    make_run(tmp_path / "d", state="failed", accuracy=None)
    screen = Styled()
    monkeypatch.setattr(terminal, "open_screen", lambda stream: screen)
    terminal.print_table(build_table([tmp_path], sort, reverse), [])
    assert [text.split()[0] for text, style in screen.said if style == "green"] == ([best] if best else [])
