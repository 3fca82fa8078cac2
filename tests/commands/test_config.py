"""Editors get the schema of configs from `distcls config schema`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distcls.cli import main
from distcls.config.schema import json_schema


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_schema_is_printed_or_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json_schema()
    assert main(["config", "schema", "-o", "schema.json"]) == 0
    assert Path("schema.json").read_text(encoding="utf-8") == printed


def test_schema_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in ([], "required: schema"), (["schem"], "invalid choice: 'schem'"):
        assert main(["config", *words]) == 2
        assert expected in capsys.readouterr().err
    assert main(["config", "schema", "-o", "no/such/folder"]) == 74
    assert "no/such/folder: cannot write the schema" in capsys.readouterr().err
