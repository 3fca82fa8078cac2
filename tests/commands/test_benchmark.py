"""What `distcls benchmark` refuses before it measures anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcls.benchmark import screens
from distcls.cli import main


def test_the_plot_of_a_range_test_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default one too, but only if it is drawn."""
    monkeypatch.chdir(tmp_path)
    Path("lr_range.png").mkdir()
    measured: list[str] = []
    for name in ("find_lr_and_plot", "find_batch"):
        monkeypatch.setattr(screens, name, lambda *_, name=name: measured.append(name))
    assert main(["benchmark", "--find", "lr"]) == 2 and measured == []
    assert "lr_range.png cannot be written: it is a folder" in capsys.readouterr().err
    assert main(["benchmark", "--find", "batch"]) == 0
    assert main(["benchmark", "--find", "lr", "--plot", "other.png"]) == 0
    assert measured == ["find_batch", "find_lr_and_plot"]
