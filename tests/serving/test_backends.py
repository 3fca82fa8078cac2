"""Which exported files are served."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from distcls.cli import main
from distcls.config.loading import read_config
from distcls.errors import MissingInputError, UsageError
from distcls.export.metadata import describe_resizing
from distcls.inference.classifier import store_temperature

pytestmark = pytest.mark.extras


@pytest.fixture
def renamed(run: Path, tmp_path: Path) -> Path:
    """A copy of the run with another name than its exported file has."""
    if not (run / "export" / "digits.onnx").exists():
        assert main(["export", str(run)]) == 0
    return Path(shutil.copytree(run, tmp_path / "model"))


def opened(run_dir: Path, threads: int = 1, backend: str = "onnx"):
    from distcls.serving.backends import open_backend

    return open_backend(run_dir, read_config(run_dir / "config.yaml"), backend, "cpu", threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_renamed_folder_keeps_its_only_file(renamed: Path, threads: int) -> None:
    backend = opened(renamed, threads)
    assert backend.compute(np.zeros((3, 8, 8, 3), np.uint8)).shape == (3, 10)


def test_of_several_files_none_is_guessed(renamed: Path) -> None:
    shutil.copy(renamed / "export" / "digits.onnx", renamed / "export" / "other.onnx")
    with pytest.raises(MissingInputError, match=r"there is no .*model\.onnx. Write it first: distcls export"):
        opened(renamed)


def test_of_a_file_and_its_int8_version_each_backend_takes_its_own(run: Path, renamed: Path) -> None:
    with pytest.raises(UsageError, match=r"digits\.onnx was written without --int8. Export the run again: .* --int8"):
        opened(renamed, backend="onnx-int8")
    assert main(["export", str(run), "--int8"]) == 0
    shutil.move(run / "export" / "digits-int8.onnx", renamed / "export")
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    exact, rounded = (opened(renamed, backend=name).compute(images) for name in ("onnx", "onnx-int8"))
    assert 0 < np.abs(exact - rounded).max() < 0.2
    (renamed / "export" / "digits.onnx").unlink()
    with pytest.raises(UsageError, match="was written with --int8, which is --backend onnx-int8"):
        opened(renamed)


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("--with-resize", describe_resizing()),
        ("--logits", {"output": "logits, float32 (batch, 10)"}),
    ],
)
def test_files_with_other_inputs_or_outputs_are_refused(renamed: Path, option: str, changes: dict[str, str]) -> None:
    from distcls.export.onnx_file import read_metadata, save_with

    file = renamed / "export" / "digits.onnx"
    save_with(file, {**read_metadata(file), **changes})
    with pytest.raises(UsageError, match=rf"digits\.onnx was written with {option}, which serving does not take"):
        opened(renamed)


def test_a_calibrated_run_in_float64_is_served(renamed: Path) -> None:
    """The file was written in float32, and so was its temperature."""
    from distcls.export.onnx_file import read_metadata, save_with

    for config in (renamed / "config.yaml", renamed / "model" / "config.yaml"):
        config.write_text(config.read_text().replace("precision: float32", "precision: float64"))
    store_temperature(renamed, 1.1)
    file = renamed / "export" / "digits.onnx"
    save_with(file, {**read_metadata(file), "temperature": repr(float(np.float32(1.1)))})
    assert read_config(renamed / "config.yaml").train.precision == "float64"
    assert opened(renamed).classifier.precision == "float32"
