"""What was measured is told, whatever happens to the files that it is written to."""

from __future__ import annotations

import pytest

from distcls.benchmark import screens
from distcls.benchmark.lr_range import LrRange
from distcls.config.settings import Config
from distcls.errors import DiskError


def test_a_rate_is_suggested_before_its_curve_is_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(screens, "find_lr", lambda config, num_steps: LrRange([1e-3, 1e-2], [2.0, 1.0], 1e-2))
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        screens.find_lr_and_plot(Config(), 100, tmp_path / "file" / "lr.png", None)
    assert "suggestion: optim.lr=1.0e-02" in capsys.readouterr().out
