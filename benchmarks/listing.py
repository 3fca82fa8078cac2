"""What it costs to open a data set of a million files: seconds and memory, of a folder tree and of a CSV.

Each is measured in a fresh process, after its imports: wall time and CPU time of opening the image sets and of
their fingerprint (which looks at every file's size), and by how much the peak of its memory grew. The files are
empty and hard links to each other, which costs the disk little and the listing as much as any others; they have
just been made, so the kernel knows them. A cold disk or a network takes as long as it takes to ask it for each file.

    python benchmarks/listing.py
    python benchmarks/listing.py --files 20000     # quick
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import conditions

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 1000


def make_tree(root: Path, num_files: int) -> None:
    """train/n00000000/n00000000_00000.JPEG and so on, like ImageNet's."""
    for label in range(CLASSES):
        folder = root / "train" / f"n{label:08}"
        folder.mkdir(parents=True)
        first, *others = (f"{folder.name}_{i:05}.JPEG" for i in range(num_files // CLASSES))
        (folder / first).touch()
        descriptor = os.open(folder, os.O_RDONLY)
        for name in others:
            os.link(first, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        os.close(descriptor)


def make_csv(root: Path) -> Path:
    """All files of the tree, with their class and a split for each."""
    file = root / "labels.csv"
    with file.open("w") as lines:
        lines.write("path,label,split\n")
        for folder in sorted((root / "train").iterdir()):
            for i, name in enumerate(sorted(os.listdir(folder))):
                lines.write(f"train/{folder.name}/{name},{folder.name},{'val' if i % 20 == 0 else 'train'}\n")
    return file


def measure(name: str, root: Path) -> dict[str, float]:
    """In a process of its own."""
    words = [sys.executable, __file__, "--measure", name, str(root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout)


def open_and_measure(name: str, root: str) -> dict[str, float]:
    """What `measure` runs."""
    from distcls.config.settings import DataConfig
    from distcls.data.sources.datasets import open_image_sets

    before, start, cpu_start = _peak_memory(), time.perf_counter(), time.process_time()
    image_sets = open_image_sets(DataConfig(name=name, root=root))
    for image_set in image_sets.values():
        image_set.fingerprint()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "megabytes": _peak_memory() - before,
        "images": sum(map(len, image_sets.values())),
    }


def _peak_memory() -> float:
    """Megabytes (10^6 bytes), of this process alone: getrusage would count the one that started it, too (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def main() -> None:
    """Prints one line for each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "ROOT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(open_and_measure(*options.measure)))
        return
    print(conditions())
    with tempfile.TemporaryDirectory() as folder:
        make_tree(Path(folder), options.files)
        sources = {"folder": Path(folder), "csv": make_csv(Path(folder))}
        for name, root in sources.items():
            turns = [measure(name, root) for _ in range(options.turns)]
            middle = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
            print(
                f"{name:<8}{middle['images']:>10,.0f} images: {middle['seconds']:.2f} s, "
                f"{middle['cpu_seconds']:.2f} s of CPU, {middle['megabytes']:.0f} MB more"
            )


if __name__ == "__main__":
    main()
