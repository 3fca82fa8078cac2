"""How long `distcls check` takes for 60,000 JPEGs (target: < 25 s on two cores), beside a bare full decode.

The peer is the shortest script that finds broken files: a pool of as many processes as there are CPUs, in which
Pillow opens and loads each file. It says nothing of classes, copies, sizes or colors. Both take turns.

    python benchmarks/check.py
    python benchmarks/check.py --quick      # the 10,000 test images, one turn
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from side_by_side import cifar_folder, conditions

ROOT = Path(__file__).resolve().parents[1]

BARE = """
import multiprocessing, os, pathlib, sys
from PIL import Image

def is_bad(path):
    try:
        with Image.open(path) as image:
            image.load()
    except Exception:
        return True
    return False

if __name__ == "__main__":
    paths = sorted(map(str, pathlib.Path(sys.argv[1]).glob("**/*.jpg")))
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        print(sum(pool.imap_unordered(is_bad, paths, 256)), len(paths))
"""


def time_command(words: Sequence[str]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time in the command and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(name: str, times: Sequence[tuple[float, float]], target: str = "") -> None:
    wall, processor = zip(*times, strict=True)
    row = f"{name:44}{min(wall):>8.2f}{statistics.median(wall):>8.2f}{statistics.median(processor):>11.2f}"
    print(f"{row}   {target}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the test split only, one turn")
    options = parser.parse_args()
    data = cifar_folder(options.data).resolve()
    data = data / "test" if options.quick else data
    with tempfile.TemporaryDirectory() as folder:
        found, script = Path(folder) / "found.json", Path(folder) / "bare.py"
        script.write_text(BARE)
        words = [sys.executable, "-m", "distcls", "check", str(data), "--json", str(found)]
        commands = {
            "distcls check": words,
            "distcls check --plots": [*words, "--plots", f"{folder}/plots"],
            "Pillow's load() in a pool of processes": [sys.executable, str(script), str(data)],
        }
        time_command(words)  # so that the files are in the disk cache
        print(conditions())
        print(f"{json.loads(found.read_text())['num_images']:,} JPEGs")
        print(f"{'seconds':44}{'best':>8}{'median':>8}{'processor':>11}   target")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(1 if options.quick else options.turns):
            for name, command in commands.items():
                times[name].append(time_command(command))
        for name, of_command in times.items():
            report(name, of_command, "< 25" if name == "distcls check" else "")


if __name__ == "__main__":
    main()
