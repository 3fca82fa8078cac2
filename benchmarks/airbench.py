"""Time and accuracy of configs/cifar10_airbench94.yaml beside the script it comes from, on the same images.

The other side is airbench94_muon.py of KellerJordan/cifar10-airbench (measured with f1c599c), from a checkout that you
name. Of its text, only what binds it to one place is replaced: the numbers of runs and epochs, and on a CPU its CUDA
calls, its half precision (bf16 autocast instead) and torch.compile. Both sides train on all training images, in a
process of their own, and measure all test images with flips and shifts. The original's seconds are the ones it prints,
which leave out its start and its evaluations before the last; those of distcls are of the whole command.

    git clone https://github.com/KellerJordan/cifar10-airbench /tmp/airbench
    python benchmarks/airbench.py --airbench /tmp/airbench --seeds 0 1 2
    python benchmarks/airbench.py --airbench /tmp/airbench --seeds 0 1 --epochs 1
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from side_by_side import cifar_folder, conditions, note, output_of, ratio

from distcls.config.settings import DataConfig
from distcls.data.build import OneProcess, build_data

ROOT = Path(__file__).resolve().parents[1]

ON_ANY_DEVICE = {
    "main(run, model) for run in range(200)": (
        "main(torch.manual_seed(run) and run, model) for run in map(int, sys.argv[1:])"
    ),
    '    main("warmup", model)\n': '    if torch.cuda.is_available(): main("warmup", model)\n',
}

ON_A_CPU = {
    "@torch.compile\n": "",
    'map_location=torch.device("cuda")': 'map_location=torch.device("cpu")',
    "(self.images.half() / 255)": "(self.images.float() / 255)",
    "                mod.half()": "                mod.float()",
    "CifarNet().cuda()": "CifarNet()",
    '    model.compile(mode="max-autotune")\n': "",
    "    starter = torch.cuda.Event(enable_timing=True)\n    ender = torch.cuda.Event(enable_timing=True)\n": (
        "    import time\n    started = 0.0\n"
    ),
    "        starter.record()\n": "        nonlocal started\n        started = time.perf_counter()\n",
    "        ender.record()\n        torch.cuda.synchronize()\n": "",
    "1e-3 * starter.elapsed_time(ender)": "time.perf_counter() - started",
    "    def forward(self, x, whiten_bias_grad=True):": (
        "    @torch.autocast('cpu', torch.bfloat16)\n    def forward(self, x, whiten_bias_grad=True):"
    ),
    "return self.head(x) / x.size(-1)": "return self.head(x).float() / x.size(-1)",
}
"""What is replaced in the original's text."""


def adapted(source: str, device: str, epochs: int) -> str:
    """Return the original's text, to run once on this device. SystemExit if it is another version."""
    replacements = ON_ANY_DEVICE if device == "cuda" else ON_ANY_DEVICE | ON_A_CPU
    for old, new in {**replacements, "ceil(8 * len": f"ceil({epochs} * len"}.items():
        if old not in source:
            raise SystemExit(f"this airbench94_muon.py has no {old!r}: check out f1c599c")
        source = source.replace(old, new)
    return source


def write_arrays(data: Path, folder: Path) -> None:
    """Write the decoded images where the original looks for them: cifar10/train.pt and test.pt."""
    built = build_data(DataConfig(name="folder", root=str(data), val_fraction=0), OneProcess())
    (folder / "cifar10").mkdir()
    for split in built.splits():
        if split.pixels is None:
            raise SystemExit(f"the images of {split.name} do not fit into memory")
        arrays = {
            "images": torch.from_numpy(split.pixels[split.rows]),
            "labels": torch.from_numpy(split.labels).long(),
            "classes": built.class_names,
        }
        torch.save(arrays, folder / "cifar10" / f"{split.name}.pt")


def original(script: Path, seeds: list[int]) -> list[tuple[float, float]]:
    """Return the accuracies with test-time augmentation and the seconds that the original prints."""
    printed = output_of([sys.executable, str(script), *map(str, seeds)], script.parent)
    rows = [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\|.*eval.*$", printed, re.MULTILINE)]
    return [(float(row[5]), float(row[6])) for row in rows if row[2] == "eval"][-len(seeds) :]


def distcls(data: Path, seed: int, run_dir: Path, settings: list[str]) -> tuple[float, float]:
    """Return the accuracy with test-time augmentation, and the seconds of the whole command."""
    words = [sys.executable, "-m", "distcls", "train", "-c", "configs/cifar10_airbench94.yaml", "--data", str(data)]
    fixed = [f"run.dir={run_dir}", f"train.seed={seed}", "data.val_fraction=0", "train.eval_every=100%"]
    started = time.perf_counter()
    subprocess.run([*words, *fixed, *settings], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return json.loads((run_dir / "metrics.json").read_text())["test"]["accuracy"], time.perf_counter() - started


def _mean_and_error(values: list[float]) -> tuple[float, float, float]:
    """The mean, and one standard error to both sides of it."""
    mean, error = statistics.fmean(values), 0.0
    if len(values) > 1:
        error = statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - error, mean + error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--airbench", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8, help="fewer to compare only the time")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("settings", nargs="*", help="settings of distcls, such as train.compile=true")
    options = parser.parse_args()
    data = cifar_folder(options.data).resolve()
    print(conditions())
    found: dict[str, list[tuple[float, float]]] = {"distcls": [], "original": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "airbench94_muon.py"
        script.write_text(adapted((options.airbench / script.name).read_text(), options.device, options.epochs))
        write_arrays(data, folder)
        precision = ["train.precision=bf16"] if options.device == "cpu" else []  # that of the original's autocast
        settings = [*precision, f"run.device={options.device}", f"train.num_epochs={options.epochs}", *options.settings]
        # On a GPU, the original compiles for minutes before its first run, so it does all of them in one process.
        together = original(script, options.seeds) if options.device == "cuda" else []
        for place, seed in enumerate(options.seeds):
            found["distcls"].append(distcls(data, seed, folder / f"seed-{seed}", settings))
            found["original"].append(together[place] if together else original(script, [seed])[0])
            for side, results in found.items():
                print(f"seed {seed}  {side:8} {results[-1][0]:.2%}  {results[-1][1]:.1f} s", flush=True)
    print()
    for side, results in found.items():
        accuracies = [100 * accuracy for accuracy, _ in results]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        note("airbench", f"airbench94, {options.epochs} epochs", f"{side}, accuracy", "%", _mean_and_error(accuracies))
        seconds = statistics.median(seconds for _, seconds in results)
        print(f"{side:8} {statistics.fmean(accuracies):.2f}{spread} %  {seconds:.1f} s")
    times = ratio(*([seconds for _, seconds in found[side]] for side in ("distcls", "original")))
    case = f"airbench94, {options.epochs} epochs, {options.device}"
    note("airbench", case, "distcls over the original, seconds", "×", times)
    middle, low, high = times
    print(f"distcls takes {middle:.3f} of the original's time ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
