"""The images that travel to another machine arrive as they left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pack(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "pack.py"), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    content = {
        f"{split}/{name}/{i}.jpg": bytes([i]) * (i + 1)
        for split in ("train", "test")
        for name in "ab"
        for i in range(9)
    }
    for name, data in content.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    assert pack(tmp_path / "in", tmp_path / "images.npz").returncode == 0
    assert pack(tmp_path / "images.npz", tmp_path / "out").returncode == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in files} == content


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    done = pack(tmp_path, tmp_path / "images.npz")
    assert done.returncode == 1 and "has no .jpg files" in done.stderr
