"""Fine-tuning on a few hundred photographs: the presets beside a linear classifier, fastai and timm's train.py.

All sides start from the same file of weights (tf_efficientnet_lite0, ImageNet) and see the same images, DIR/train/CLASS
and DIR/val/CLASS; the weights after the last step are measured on val. Sides take turns, one seed after the other, and
each runs in a process of its own: seconds are of the whole command, imports included; those per epoch are its seconds
divided by its epochs.

    python benchmarks/finetune.py --data hymenoptera --seeds 0 1 2
    python benchmarks/finetune.py --data hymenoptera --seeds 0 1 2 --fastai ENV/bin/python --timm pytorch-image-models

--fastai names a Python that has fastai and timm. --timm names a checkout of timm (measured with aa4b585); its train.py
is run as it is. Epochs of the peers: fine_tune(5), which is one for the head and five for all; and for timm as many as
`balanced` takes.
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
from collections.abc import Callable
from pathlib import Path

import yaml
from side_by_side import conditions, output_of

MODEL = "tf_efficientnet_lite0"

FASTAI_EPOCHS = 6
"""fine_tune(5): one for the head, five for all."""

REGRESSION = """
import sys, numpy as np, timm, torch
from pathlib import Path
from PIL import Image
from sklearn.linear_model import LogisticRegression
data, weights, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = dict(pretrained=True, pretrained_cfg_overlay=dict(file=weights), num_classes=0)
model = timm.create_model("tf_efficientnet_lite0", **settings).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
def features(split):
    files = sorted(f for f in (data / split).rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    names = sorted({f.parent.name for f in files})
    with torch.inference_mode():
        batches = [files[i : i + 32] for i in range(0, len(files), 32)]
        parts = [model(torch.stack([transform(Image.open(f).convert("RGB")) for f in batch])) for batch in batches]
    return torch.cat(parts).numpy(), [names.index(f.parent.name) for f in files]
(x, y), (x_val, y_val) = features("train"), features("val")
print("accuracy", LogisticRegression(max_iter=5000, random_state=seed).fit(x, y).score(x_val, y_val))
"""

FASTAI = """
import sys, random, numpy as np, timm, torch
from fastai.vision.all import *
data, weights, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
set_seed(seed, reproducible=True)
files = [f for f in get_image_files(data) if f.suffix.lower() in (".jpg", ".jpeg", ".png")]
block = DataBlock((ImageBlock, CategoryBlock), get_items=lambda _: files, get_y=parent_label,
                  splitter=GrandparentSplitter("train", "val"), item_tfms=Resize(460),
                  batch_tfms=[*aug_transforms(size=224), Normalize.from_stats([0.5] * 3, [0.5] * 3)])
dls = block.dataloaders(data, bs=64, num_workers=2)
body = timm.create_model("tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay=dict(file=weights),
                         num_classes=0, global_pool="")
head = create_head(body.num_features, dls.c)
model = nn.Sequential(body, head)
apply_init(model[1], nn.init.kaiming_normal_)
learn = Learner(dls, model, splitter=lambda m: L(params(m[0]), params(m[1])), metrics=accuracy)
learn.freeze()
with learn.no_bar(), learn.no_logging():
    learn.fine_tune(5)
print("accuracy", float(learn.validate()[1]))
"""


def accuracy_of(words: list[str], cwd: Path) -> float:
    """The accuracy that a peer prints."""
    return float(re.findall(r"accuracy ([\d.]+)", output_of(words, cwd))[-1])


def distcls(preset: str, data: Path, weights: Path, seed: int, folder: Path) -> float:
    """The val accuracy of the last weights of a preset; nothing is held out for testing."""
    run_dir = folder / f"{preset}-{seed}"
    words = [sys.executable, "-m", "distcls", "train", "--data", str(data), "--preset", preset, f"run.dir={run_dir}"]
    settings = ["data.test_fraction=0", "train.eval_every=100%", f"train.seed={seed}", "run.trackers=[]"]
    settings += [f"model.name=timm/{MODEL}", f"model.weights={weights}", f"data.cache_dir={folder / f'cache-{seed}'}"]
    subprocess.run([*words, *settings], stdout=subprocess.DEVNULL, check=True)
    return json.loads((run_dir / "metrics.json").read_text())["val"]["accuracy"]


def timm_train(checkout: Path, data: Path, weights: Path, seed: int, folder: Path, epochs: int) -> float:
    """The val accuracy in the last line of the summary that timm's train.py writes, from 0 to 1."""
    words = [sys.executable, str(checkout / "train.py"), str(data), "--model", MODEL, "--pretrained", "--device", "cpu"]
    words += ["--pretrained-path", str(weights), "--train-split", "train", "--val-split", "val", "--num-classes", "2"]
    words += ["-b", "16", "--opt", "adamw", "--lr", "3e-4", "--weight-decay", "0.05", "--epochs", str(epochs)]
    words += ["--warmup-epochs", "1", "--cooldown-epochs", "0", "--smoothing", "0.1", "--workers", "2"]
    words += ["--seed", str(seed), "--output", str(folder), "--experiment", f"timm-{seed}"]
    output_of(words, folder)
    lines = (folder / f"timm-{seed}" / "summary.csv").read_text().splitlines()
    return float(dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))["eval_top1"]) / 100


def main() -> None:
    """Run the sides in turns, and print mean ± standard deviation of accuracy and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: the file that is installed with distcls")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="*", default=["fast", "balanced"])
    parser.add_argument("--fastai", type=Path, metavar="PYTHON")
    parser.add_argument("--timm", type=Path, metavar="CHECKOUT")
    parser.add_argument("--timm-epochs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data, folder = options.data.resolve(), Path(tempfile.mkdtemp(prefix="finetune-"))
    weights = options.weights.resolve() if options.weights else bundled_as_safetensors(folder)
    epochs_of: dict[str, float] = {}
    sides: dict[str, Callable[[int], float]] = {
        "logistic regression": lambda seed: accuracy_of(
            [sys.executable, "-c", REGRESSION, str(data), str(weights), str(seed)], folder
        )
    }
    for preset in options.presets:
        sides[preset] = lambda seed, preset=preset: distcls(preset, data, weights, seed, folder)
    if options.fastai is not None:
        peer = [str(options.fastai.absolute()), "-c", FASTAI, str(data), str(weights)]
        epochs_of["fastai fine_tune(5)"] = FASTAI_EPOCHS
        sides["fastai fine_tune(5)"] = lambda seed: accuracy_of([*peer, str(seed)], folder)
    if options.timm is not None:
        epochs = options.timm_epochs
        epochs_of[f"timm train.py, {epochs} epochs"] = epochs
        sides[f"timm train.py, {epochs} epochs"] = lambda seed: timm_train(
            options.timm.resolve(), data, weights, seed, folder, epochs
        )
    found: dict[str, dict[str, list[float]]] = {name: {"accuracy": [], "seconds": []} for name in sides}
    for seed in options.seeds:
        for name, side in sides.items():
            started = time.perf_counter()
            found[name]["accuracy"].append(side(seed))
            found[name]["seconds"].append(time.perf_counter() - started)
            print(
                f"seed {seed}  {name:28} {found[name]['accuracy'][-1]:.2%}  {found[name]['seconds'][-1]:.0f} s",
                flush=True,
            )
    if "balanced" in options.presets:  # `fast` computes features once, so its epochs are no passes over the images
        config = yaml.safe_load((folder / f"balanced-{options.seeds[0]}" / "config.yaml").read_text())
        epochs_of["balanced"] = config["train"]["num_epochs"]
    print(f"\n{conditions()}\n{data.name}, seeds {options.seeds}\n")
    for name, values in found.items():
        accuracy, seconds = values["accuracy"], values["seconds"]
        spread = f" ± {100 * statistics.stdev(accuracy):.1f}" if len(accuracy) > 1 else ""
        mean = statistics.fmean(seconds)
        each = f"   {mean / epochs_of[name]:.1f} s an epoch" if name in epochs_of else ""
        print(f"{name:28} {100 * statistics.fmean(accuracy):.1f}{spread} %   {mean:.0f} s{each}")
    if options.json is not None:
        options.json.write_text(json.dumps({"conditions": conditions(), "sides": found}, indent=2))


def bundled_as_safetensors(folder: Path) -> Path:
    """The weights that are installed with distcls, as a file that every side can read."""
    from safetensors.torch import save_file

    from distcls.models.init_from import read_weights
    from distcls.models.libraries import LIBRARIES
    from distcls.models.timm_library import bundled_weights

    path = bundled_weights()
    assert path is not None
    tensors = LIBRARIES["timm"].convert(MODEL, read_weights(path), 224, {})
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / f"{MODEL}.safetensors")
    return folder / f"{MODEL}.safetensors"


if __name__ == "__main__":
    main()
