"""The notebooks run from top to bottom, one after the other, and show what they promise."""

from __future__ import annotations

import base64
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from terminals import as_shown

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.extras
@pytest.mark.timeout(900)
def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    shown: dict[str, str] = {}
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
        # Jupyter shows what a cell prints as one text, however many pieces arrive.
        shown[path.stem] = "\n".join("".join(texts(cell)) for cell in notebook.cells)
        if folder := os.environ.get("DISTCLS_SAVE_NOTEBOOKS"):  # to look at them
            nbformat.write(notebook, Path(folder) / path.name)
        pictures = [data for cell in notebook.cells for data in images(cell)]
        assert pictures and all(len(base64.b64decode(data)) > 2000 for data in pictures)
    assert len(shown) == 3 and not re.search("Traceback|Warning", "".join(shown.values()))
    assert "1,797" in shown["01_explore"] and "parameters" in shown["01_explore"]
    lines = as_shown(shown["02_train"])
    assert sum(bool(re.match(r" +\d+\.\d +\d+ ", line)) for line in lines) >= 16, "a row for each evaluation"
    assert not [line for line in lines if line.startswith(("epoch ", "step "))], "the live line is gone"
    assert re.search(r"<Run runs/digits: finished, val accuracy [\d.]+%, test accuracy [\d.]+%>", shown["02_train"])
    assert "<Classifier runs/digits: 10 classes ('0', '1', '2', …), 8 pixels, " in shown["03_results"]
    assert re.search(r"<'7' [\d.]+%, '\d' ", shown["03_results"])


def texts(cell: Any) -> list[str]:
    """The text that a cell shows."""
    outputs = cell.get("outputs", [])
    return [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]


def images(cell: Any) -> list[str]:
    """The pictures that a cell shows, PNG in base 64."""
    outputs = cell.get("outputs", [])
    return [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebooks_are_committed_without_outputs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert '"outputs": []' in text and '"output_type"' not in text and text.count('"execution_count": null') >= 3
