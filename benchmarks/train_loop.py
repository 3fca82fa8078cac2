"""Images per second of the training loop, against a loop written by hand and against the usual accelerate script.

The distcls side is the loop that users run, training/loop.py, from its config on; in each step it lets the other sides
take theirs (`InTurns`). The hand-written loop is the fastest that we could write: pixels in memory, one gather for crop
and flip, channels_last, the fused optimizer, nothing logged but the loss. What distcls does beyond it (the gradient's
norm, the finite-ness check, exact BatchNorm statistics, keyed random numbers, metrics.csv, TensorBoard, status.json)
is what the difference pays for. Evaluation and checkpoints are in none of the sides.

In the process that distcls set up, every side profits from the memory that glibc is told to keep. So the hand-written
loop also runs in a process of its own, as a script would.

    python benchmarks/train_loop.py                  # cnn2 and resnet9
    python benchmarks/train_loop.py --precision bf16 --only-bare
    python benchmarks/train_loop.py --lightning      # Lightning, too
    python benchmarks/train_loop.py --quick
    python benchmarks/train_loop.py --device cuda --batch 512
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from side_by_side import Timings, cifar_folder, conditions, in_turns, note, ratio
from torch import nn

from distcls.config.loading import load_config
from distcls.config.settings import Config, ModelConfig
from distcls.data.build import OneProcess, build_data
from distcls.data.loading.micro_batch import MicroBatch
from distcls.data.split import Data
from distcls.errors import Preempted
from distcls.models.build import build_model
from distcls.training.loop import train
from distcls.training.objectives.build import OBJECTIVES
from distcls.training.objectives.objective import Network, Task, Terms
from distcls.training.objectives.supervised import Supervised

ROOT = Path(__file__).resolve().parents[1]
OWN_PROCESS = "hand-written, its own process"
TOTAL_STEPS = 20_000
"""Length of the schedule; the measurement ends long before."""
OVER = "over"
"""What comes after the last turn."""


class InTurns(Supervised):
    """The usual objective. Called once a step, it lets the other sides take their turns before the step goes on."""

    def __init__(self, turns: Iterator[None], task: Task) -> None:
        super().__init__(task)
        self.turns = turns

    def __call__(self, network: Network, micro_batch: MicroBatch, step: int) -> Terms:
        if next(self.turns, OVER) == OVER:
            raise Preempted("all turns have been taken")
        return super().__call__(network, micro_batch, step)


def run_in_turns(config: Config, turns: Iterator[None]) -> None:
    """Train as `distcls train` does, advancing `turns` at each step, until it is exhausted."""
    with (
        mock.patch.dict(OBJECTIVES, supervised=functools.partial(InTurns, turns)),
        contextlib.redirect_stdout(sys.stderr),
        contextlib.suppress(Preempted),
    ):
        train(config, "train_loop")


@dataclass
class Recipe:
    """What the sides have in common: numbers, and the arrays that distcls decoded."""

    pixels: np.ndarray
    labels: np.ndarray
    folder: Path
    batch: int
    pad: int
    mean: list[float]
    std: list[float]
    lr: float
    weight_decay: float
    device: torch.device
    in_bf16: bool

    def lr_at(self, step: int) -> float:
        """One cycle: up for 30 % of the run, and down to nothing."""
        rise = 0.3 * TOTAL_STEPS
        start, end, part = (
            (self.lr / 25, self.lr, step / rise)
            if step < rise
            else (self.lr, 0.0, (step - rise) / (TOTAL_STEPS - rise))
        )
        return end + (start - end) * (1 + math.cos(math.pi * part)) / 2

    def wait_for_the_device(self) -> None:
        """End a step for good, where another process measures it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def autocast(self) -> torch.autocast | contextlib.nullcontext[None]:
        """Around the forward pass, in bf16."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.in_bf16 else contextlib.nullcontext()


def new_model(name: str, image_size: int) -> nn.Module:
    """The network that model.name=NAME trains, in channels_last."""
    return build_model(ModelConfig(name=name), 10, image_size)


def bare_loop(recipe: Recipe, model: nn.Module) -> Iterator[None]:
    """The least that trains the same model on the same images, as fast as we could make it."""
    device, n, size = recipe.device, len(recipe.labels), recipe.pixels.shape[1]
    table = torch.from_numpy(recipe.pixels).to(device).view(-1, 3)
    all_labels = torch.from_numpy(recipe.labels).to(device)
    mean, std = (torch.tensor(x, device=device) for x in (recipe.mean, recipe.std))
    # For whole rows of pixels: a CPU takes three times as long where only three numbers repeat.
    scale, shift = (1 / (255 * std)).repeat(size), (-mean / std).repeat(size)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    optimizer = torch.optim.AdamW(_groups(recipe, model), lr=recipe.lr, fused=True)
    places = torch.arange(size, device=device)
    order, position = torch.randperm(n, device=device), 0
    for step in range(TOTAL_STEPS):
        if position + recipe.batch > n:
            order, position = torch.randperm(n, device=device), 0
        chosen = order[position : position + recipe.batch]
        position += recipe.batch
        index = crop_and_flip(chosen, recipe.pad, places)
        rows = table.index_select(0, index.view(-1)).view(recipe.batch * size, size * 3).float()
        images = torch.addcmul(shift, rows, scale, out=rows).view(recipe.batch, size, size, 3).permute(0, 3, 1, 2)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step)
        optimizer.zero_grad(set_to_none=True)
        with recipe.autocast():
            loss = F.cross_entropy(model(images), all_labels[chosen])
        loss.backward()
        optimizer.step()
        if step % 10 == 0 and not math.isfinite(loss.item()):
            raise SystemExit("the hand-written loop diverged")
        yield


def in_own_process(loop: Callable[..., None], recipe: Recipe, model_name: str, threads: int) -> Iterator[None]:
    """A loop in another process, which takes a step when it is told to, and ends when nobody tells it any more."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=loop, args=(there, recipe, model_name, threads)).start()
    there.close()
    with here:
        while True:
            here.send(None)
            here.recv()
            yield


def bare_on_demand(connection: Connection, recipe: Recipe, model_name: str, threads: int) -> None:
    """The hand-written loop; see in_own_process."""
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError):  # the measurement is over
        for _ in bare_loop(recipe, new_model(model_name, recipe.pixels.shape[1])):
            connection.recv()
            recipe.wait_for_the_device()
            connection.send(None)


def lightning_on_demand(connection: Connection, recipe: Recipe, model_name: str, threads: int) -> None:
    """Lightning's Trainer, as its examples have it, with the images of `accelerate_loop`; see in_own_process."""
    import lightning  # type: ignore  # whoever asks for it installs it

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = new_model(model_name, recipe.pixels.shape[1])

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            loss = F.cross_entropy(self.network(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> dict:
            optimizer = torch.optim.AdamW(self.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, TOTAL_STEPS)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class InTurns(lightning.Callback):
        def on_train_batch_start(self, *_) -> None:
            connection.recv()

        def on_train_batch_end(self, *_) -> None:
            recipe.wait_for_the_device()
            connection.send(None)

    torch.set_num_threads(threads)
    trainer = lightning.Trainer(
        accelerator="gpu" if recipe.device.type == "cuda" else "cpu", devices=1, max_steps=TOTAL_STEPS, max_epochs=-1,
        precision="bf16-mixed" if recipe.in_bf16 else "32-true", callbacks=[InTurns()], enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=tempfile.gettempdir(),
    )  # fmt: skip
    with contextlib.suppress(EOFError):
        trainer.fit(Classifier(), transformed_one_by_one(recipe, in_memory=True))


def crop_and_flip(chosen: torch.Tensor, pad: int, places: torch.Tensor) -> torch.Tensor:
    """For each pixel of a batch, which row of the table of all pixels it is: (batch, size, size) int64."""
    n, size = len(chosen), len(places)
    shift = torch.randint(-pad, pad + 1, (2, n, 1), device=chosen.device)
    rows, columns = (_reflect(places + by, size) for by in shift)
    mirrored = torch.rand(n, 1, device=chosen.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return ((chosen[:, None] * size + rows) * size)[:, :, None] + columns[:, None, :]


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    index = index.abs()
    return (size - 1) - ((size - 1) - index).abs()


def _groups(recipe: Recipe, model: nn.Module) -> list[dict]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


class InMemory(torch.utils.data.Dataset):
    """Like torchvision.datasets.CIFAR10: arrays in memory, made into a PIL image each time."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), int(self.labels[i])


def transformed_one_by_one(recipe: Recipe, in_memory: bool) -> torch.utils.data.DataLoader:
    """As torchvision's examples have it: transforms of single images in two loader processes."""
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(recipe.pixels.shape[1], padding=recipe.pad, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(recipe.mean, recipe.std),
        ]
    )
    images = (
        InMemory(recipe.pixels, recipe.labels, transform)
        if in_memory
        else datasets.ImageFolder(str(recipe.folder / "train"), transform)
    )
    return torch.utils.data.DataLoader(
        images, recipe.batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True,
        pin_memory=recipe.device.type == "cuda",
    )  # fmt: skip


def accelerate_loop(recipe: Recipe, model: nn.Module, in_memory: bool) -> Iterator[None]:
    """As the examples of accelerate have it."""
    from accelerate import Accelerator

    loader = transformed_one_by_one(recipe, in_memory)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, TOTAL_STEPS)
    accelerator = Accelerator(cpu=recipe.device.type == "cpu", mixed_precision="bf16" if recipe.in_bf16 else "no")
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    criterion = nn.CrossEntropyLoss()
    model.train()
    running = 0.0
    while True:
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            running += loss.item()
            yield


def loop_config(model_name: str, folder: Path, options: argparse.Namespace) -> Config:
    """The config of a run that trains until it is stopped, without an evaluation or a checkpoint."""
    return load_config(
        ROOT / "configs" / "cifar10_cnn.yaml",
        [
            f"data.root={options.data}", f"model.name={model_name}", "model.args={}",
            f"train.global_batch_size={options.batch}", "train.num_epochs=null",
            f"train.num_steps={TOTAL_STEPS}", f"train.eval_every={TOTAL_STEPS}",
            f"train.checkpoint_every={TOTAL_STEPS}", f"run.dir={folder}/run", f"run.device={options.device}",
            f"train.num_threads={options.threads}", f"train.precision={options.precision}",
        ],
    )  # fmt: skip


def compare(model_name: str, options: argparse.Namespace) -> None:
    """Time all sides on one model, and print a row for each."""
    slow = model_name == "resnet9" and options.device == "cpu"
    device = torch.device(options.device)
    timings: Timings = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as closing:
        config = loop_config(model_name, Path(folder), options)
        data = build_data(config.data, OneProcess())
        recipe = _recipe(config, data, options, device)
        models = [new_model(model_name, data.image_size) for _ in range(3)]
        sides: dict[str, Iterator[None] | None] = {
            "distcls": None,  # its loop advances the turns
            "hand-written loop": bare_loop(recipe, models[0]),
            OWN_PROCESS: in_own_process(bare_on_demand, recipe, model_name, options.threads),
        }
        if options.lightning:
            sides["Lightning, images in memory"] = in_own_process(
                lightning_on_demand, recipe, model_name, options.threads
            )
        if not options.only_bare:
            sides["accelerate, images in memory"] = accelerate_loop(recipe, models[1], in_memory=True)
            sides["accelerate, JPEG files"] = accelerate_loop(recipe, models[2], in_memory=False)
        for side in sides.values():
            if side is not None:  # also after an error: a process that still waits would be waited for
                closing.callback(side.close)  # type: ignore[attr-defined]
        turns = in_turns(
            timings,
            sides,
            turns=max(options.turns // 3, 1) if slow else options.turns,
            steps=max(options.steps // 10, 1) if slow else options.steps,
            lead_in=2 if slow else 8,
            synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
        )
        run_in_turns(config, turns)
    _print_rows(model_name, timings, options)


def _recipe(config: Config, data: Data, options: argparse.Namespace, device: torch.device) -> Recipe:
    """All images that distcls trains on, as plain arrays."""
    assert data.train.pixels is not None
    pixels = np.ascontiguousarray(data.train.pixels[data.train.rows])
    normalize = config.augment.normalize
    return Recipe(
        pixels, data.train.labels, options.data, options.batch, config.augment.pad_crop,
        normalize.mean, normalize.std, config.optim.lr, config.optim.weight_decay, device,
        options.precision == "bf16",
    )  # fmt: skip


def _print_rows(model_name: str, timings: Timings, options: argparse.Namespace) -> None:
    batch, own = options.batch, timings["distcls"]
    title = f"{model_name}, {options.precision}, batch {batch}, {options.threads} threads"
    print(f"\n{title}, median of {len(own.wall)} turns")
    print(f"{'':32}{'images/s':>9}{'ms/step':>9}{'cpu ms':>9}   speed of distcls against it")
    for name, seconds in timings.items():
        wall, cpu = statistics.median(seconds.wall), statistics.median(seconds.cpu)
        speed = ratio(seconds.wall, own.wall)
        if name == "distcls":
            note("train_loop", title, name, "images/s", ratio([batch] * len(seconds.wall), seconds.wall))
        else:
            note("train_loop", title, f"distcls against {name}", "×", speed)
        by_clock = "{:.3f} ({:.3f} to {:.3f})".format(*speed)
        by_cpu = "{:.3f} ({:.3f} to {:.3f}) by cpu time".format(*ratio(seconds.cpu, own.cpu))
        # The processor time of workers, and of another process, is not in this process's.
        compared = {"distcls": "", "hand-written loop": f"{by_clock}, {by_cpu}"}.get(name, by_clock)
        print(f"{name:32}{batch / wall:>9,.0f}{1000 * wall:>9.2f}{1000 * cpu:>9.2f}   {compared}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 JPEGs; default: the zip beside the project")
    parser.add_argument("--models", nargs="+", default=["cnn2", "resnet9"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", choices=["float32", "bf16"], help="default: bf16 on a GPU, float32 on a CPU")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of the training process; 1 on a busy machine"
    )
    parser.add_argument("--only-bare", action="store_true", help="leave the two accelerate loops out")
    parser.add_argument("--lightning", action="store_true", help="Lightning's Trainer, too: pip install lightning")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40, help="timed steps a turn (a tenth of it for resnet9 on a CPU)")
    parser.add_argument("--quick", action="store_true", help="three short turns of cnn2")
    options = parser.parse_args()
    options.data = cifar_folder(options.data)
    options.precision = options.precision or ("bf16" if options.device == "cuda" else "float32")
    if options.quick:
        options.models, options.turns, options.steps = ["cnn2"], 3, 15
    print(conditions())
    for model_name in options.models:
        compare(model_name, options)


if __name__ == "__main__":
    main()
