"""Images per second of the training loop, against a loop written by hand and against the usual accelerate script.

The hand-written loop is the fastest that we could write: pixels in memory, one gather for crop and flip,
channels_last, the fused optimizer, nothing logged but the loss. What distcls does beyond it (the gradient's
norm, the finite-ness check, exact BatchNorm statistics, keyed random numbers, metrics.csv, TensorBoard,
status.json) is what the difference pays for. Evaluation and checkpoints are in none of the sides.

In the process that distcls set up, every side profits from the memory that glibc is told to keep. So the hand-written
loop also runs in a process of its own, as a script would.

    python benchmarks/train_loop.py                  # cnn2 and resnet9
    python benchmarks/train_loop.py --quick
    python benchmarks/train_loop.py --device cuda --batch 512
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from side_by_side import Timings, alternate, cifar_folder, conditions, ratio
from torch import nn

from distcls.cluster.kernels import choose_kernels
from distcls.cluster.processes import Processes
from distcls.config.durations import is_due
from distcls.config.loading import load_config
from distcls.config.settings import Config
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.build import build_data
from distcls.data.loading.loader import train_batches
from distcls.data.split import Data
from distcls.models.build import MODELS
from distcls.plan.batches import plan_batches
from distcls.runs.folder import RunFolder
from distcls.training.acceleration import Acceleration
from distcls.training.finish import write_about_data
from distcls.training.objectives.build import build_objective
from distcls.training.objectives.objective import describe_task
from distcls.training.state import build_state
from distcls.training.step import TrainStep
from distcls.training.watch import Watch

ROOT = Path(__file__).resolve().parents[1]
OWN_PROCESS = "hand-written, its own process"
TOTAL_STEPS = 20_000
"""Length of the schedule; the measurement ends long before."""


def distcls_loop(config: Config, data: Data, processes: Processes, run: RunFolder) -> Iterator[None]:
    """The body of the training loop, step by step, with every check of it."""
    acceleration = Acceleration(config.train, processes.device)
    device, dtype = acceleration.device, acceleration.dtype
    write_about_data(data, config.augment.normalize, run)
    plan = plan_batches(config.train, len(data.train), processes.rank, processes.world_size)
    normalize = Normalize.build(config.augment.normalize, device, dtype, config.model.channels_last)
    augment = Augmentation(normalize, len(data.class_names))
    objective = build_objective(config.objective, describe_task(config, data, plan, augment, device, dtype))
    state = build_state(config, data, objective, acceleration, run)
    train_step = TrainStep(config, objective, state, plan, acceleration)
    watch = Watch(config, state, plan, data.train, run)
    batches = train_batches(data.train, plan, config.augment, device, config.data.workers, state.step)
    while state.step < plan.total_steps:
        processes.asked_to_stop()
        is_due(state.step, config.train.eval_every, plan)
        state.has_stopped_early(config.train.early_stopping)
        is_due(state.step, config.train.checkpoint_every, plan)
        watch.saw(train_step(watch.wait_for(batches)), train_step.names)
        yield


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

    def lr_at(self, step: int) -> float:
        """One cycle: up for 30 % of the run, and down to nothing."""
        rise = 0.3 * TOTAL_STEPS
        start, end, part = (
            (self.lr / 25, self.lr, step / rise)
            if step < rise
            else (self.lr, 0.0, (step - rise) / (TOTAL_STEPS - rise))
        )
        return end + (start - end) * (1 + math.cos(math.pi * part)) / 2

    def autocast(self) -> torch.autocast | nullcontext[None]:
        """bf16 on a GPU, which is what distcls chooses there."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()


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


def in_own_process(recipe: Recipe, model_name: str, threads: int) -> Iterator[None]:
    """The hand-written loop in another process, which takes a step when it is told to."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_steps_on_demand, args=(there, recipe, model_name, threads), daemon=True)
    process.start()
    while True:
        here.send(None)
        here.recv()
        yield


def _steps_on_demand(connection: Connection, recipe: Recipe, model_name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    with suppress(EOFError):  # the measurement is over
        for _ in bare_loop(recipe, MODELS[model_name](10, recipe.pixels.shape[1])):
            connection.recv()
            connection.send(None)


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


def accelerate_loop(recipe: Recipe, model: nn.Module, in_memory: bool) -> Iterator[None]:
    """As the examples of accelerate and torchvision have it: transforms per image in two loader processes."""
    from accelerate import Accelerator
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
    loader = torch.utils.data.DataLoader(
        images, recipe.batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True,
        pin_memory=recipe.device.type == "cuda",
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, TOTAL_STEPS)
    accelerator = Accelerator(cpu=recipe.device.type == "cpu")
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


def compare(model_name: str, options: argparse.Namespace) -> None:
    """Time all sides on one model, and print a row for each."""
    slow = model_name == "resnet9" and options.device == "cpu"
    processes = Processes(options.device)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            ROOT / "configs" / "cifar10_cnn.yaml",
            [
                f"data.root={options.data}", f"model.name={model_name}", "model.args={}",
                f"train.global_batch_size={options.batch}", "train.num_epochs=null",
                f"train.num_steps={TOTAL_STEPS}", f"run.dir={folder}/run", f"run.device={options.device}",
                f"train.num_threads={options.threads}",
            ],
        )  # fmt: skip
        data = build_data(config.data, processes)
        choose_kernels(config.train, processes)
        run = RunFolder(config, processes, "train_loop")
        recipe = _recipe(run.config, data, options, processes.device)
        models = [MODELS[model_name](10, data.image_size) for _ in range(3)]
        sides = {
            "distcls": distcls_loop(run.config, data, processes, run),
            "hand-written loop": bare_loop(recipe, models[0]),
            OWN_PROCESS: in_own_process(recipe, model_name, options.threads),
        }
        if not options.only_bare:
            sides["accelerate, images in memory"] = accelerate_loop(recipe, models[1], in_memory=True)
            sides["accelerate, JPEG files"] = accelerate_loop(recipe, models[2], in_memory=False)
        timings = alternate(
            sides,
            turns=max(options.turns // 3, 1) if slow else options.turns,
            steps=max(options.steps // 10, 1) if slow else options.steps,
            lead_in=2 if slow else 8,
            synchronize=torch.cuda.synchronize if processes.device.type == "cuda" else lambda: None,
        )
        if run.tracker is not None:
            run.tracker.close()
    _print_rows(model_name, timings, options.batch)


def _recipe(config: Config, data: Data, options: argparse.Namespace, device: torch.device) -> Recipe:
    """All images that distcls trains on, as plain arrays."""
    assert data.train.pixels is not None
    pixels = np.ascontiguousarray(data.train.pixels[data.train.rows])
    normalize = config.augment.normalize
    return Recipe(
        pixels, data.train.labels, options.data, options.batch, config.augment.pad_crop,
        normalize.mean, normalize.std, config.optim.lr, config.optim.weight_decay, device,
    )  # fmt: skip


def _print_rows(model_name: str, timings: Timings, batch: int) -> None:
    own = timings["distcls"]
    print(f"\n{model_name}, batch {batch}, {torch.get_num_threads()} threads, median of {len(own.wall)} turns")
    print(f"{'':32}{'images/s':>9}{'ms/step':>9}{'cpu ms':>9}   speed of distcls against it")
    for name, seconds in timings.items():
        wall, cpu = statistics.median(seconds.wall), statistics.median(seconds.cpu)
        by_clock = "{:.3f} ({:.3f} to {:.3f})".format(*ratio(seconds.wall, own.wall))
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
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of the training process; 1 on a busy machine"
    )
    parser.add_argument("--only-bare", action="store_true", help="leave the two accelerate loops out")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40, help="timed steps a turn (a tenth of it for resnet9 on a CPU)")
    parser.add_argument("--quick", action="store_true", help="three short turns of cnn2")
    options = parser.parse_args()
    options.data = cifar_folder(options.data)
    if options.quick:
        options.models, options.turns, options.steps = ["cnn2"], 3, 15
    print(conditions())
    for model_name in options.models:
        compare(model_name, options)


if __name__ == "__main__":
    main()
