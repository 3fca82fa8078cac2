"""What benchmarks/gpu.sh says first, on a machine that lacks something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_missing_packages_are_named_before_anything_is_run():
    """Python alone, without what is installed beside it."""
    command = [sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "requirements.py"), "--device", "cpu"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert "missing Python packages: pip install torch torchvision accelerate" in found.stderr
    assert "submitit is not installed; continuing without it (only Slurm needs it)" in found.stdout
