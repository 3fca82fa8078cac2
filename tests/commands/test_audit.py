"""What `distcls audit` refuses before it imports anything slow."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import make_run

from distcls.cli import main


def test_the_folder_of_a_run_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pictures would be replaced."""
    monkeypatch.chdir(tmp_path)
    (make_run(Path("run")) / "preprocessing.json").write_text("{}")
    assert main(["audit", "run", "--output", "run"]) == 2
    assert "--output run is a run folder, whose pictures the audit would replace: give" in capsys.readouterr().err
    Path("file").touch()
    assert main(["audit", "run", "--output", "file"]) == 2
    assert "it is a file. Give the name of a folder" in capsys.readouterr().err
