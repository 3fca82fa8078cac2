"""What benchmarks/gpu.sh says first, on a machine that lacks something."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def without_packages() -> subprocess.CompletedProcess[str]:
    """What Python says alone, without what is installed beside it."""
    command = [sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "requirements.py"), "--device", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_missing_packages_are_named_before_anything_is_run(without_packages):
    assert without_packages.returncode == 1
    assert "missing Python packages: pip install torch torchvision accelerate" in without_packages.stderr
    assert "submitit is not installed; continuing without it (only Slurm needs it)" in without_packages.stdout


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_every_dependency_of_the_package_is_looked_for(without_packages, line):
    assert Requirement(line).name in (without_packages.stderr + without_packages.stdout).split()
