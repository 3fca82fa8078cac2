"""What a finished run leaves for people: the last measurements, model/, metrics.json and plots/."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import shlex
from pathlib import Path

import numpy as np
import torch

from distcls.commands.evaluate import Evaluator
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.loading.loader import train_batches
from distcls.data.split import Data, Split
from distcls.errors import Preempted
from distcls.files.atomic import json_text, write_text
from distcls.inference.classifier import write_model
from distcls.inference.metrics import SplitMetrics
from distcls.plan.batches import BatchPlan
from distcls.report.calibration import plot_calibration
from distcls.report.confusion import plot_confusion
from distcls.report.curves import plot_curves
from distcls.report.pictures import plot_images
from distcls.runs.tracking import read_metrics
from distcls.terminal.progress import Progress
from distcls.training.checkpoint import Checkpoints
from distcls.training.run import Run
from distcls.training.state import TrainState
from distcls.training.watch import WENT_BAD, tracked

NUM_PICTURES = 36


def finish(
    state: TrainState,
    data: Data,
    plan: BatchPlan,
    augment: Augmentation,
    evaluate: Evaluator,
    checkpoints: Checkpoints,
    run: Run,
) -> None:
    """Measure the best weights on val and, for the first time, on test; write what stays of the run.

    It changes the weights of the state to the best ones. All processes measure, the main one writes.
    """
    run.at(state.step, "finish")
    run.processes.wait_for_everyone()  # the best weights may have been on their way to the disk
    module = state.eval_module
    if state.position.best_step is not None:
        module.load_state_dict(checkpoints.read_best(state.position.best_step))
    measured = {}
    for split in (data.val, data.test):
        if split is not None:
            metrics = evaluate(module, split)
            if metrics is None:
                raise Preempted("stopped in the last evaluation: the same command goes on with it.")
            measured[split.name] = metrics
    went_bad = any(run.processes.from_all((run.dir / WENT_BAD).exists()))  # on another machine, perhaps
    run.processes.expect_progress(None)  # the others wait for the plots
    if not run.processes.is_main:
        return
    for name, metrics in measured.items():
        if name == "test":
            run.track(step=state.step, epoch=plan.epoch(state.step), split=name, **tracked(metrics))
    write_model(run.dir / "model", module, run.config, data.class_names, data.decoding)
    run.write_json("metrics.json", {name: metrics.values for name, metrics in measured.items()})
    write_plots(run.dir, data, measured, first_images(data, plan, augment, run), state.position.best_step)
    if went_bad:
        run.progress.warning(
            f"some images went bad during training ({run.dir / WENT_BAD}): another run would not give the same weights."
        )
    folder = shlex.quote(str(run.dir))
    last = measured.get("test") or measured.get("val")
    measured_on = "" if data.test else " --split val" if data.val else " --split train"
    run.progress.finish(
        {name: metrics.values for name, metrics in measured.items()},
        worst_confusions(last.confusion, data.class_names) if last is not None else [],
        f"distcls eval {folder}{measured_on}\ndistcls predict {folder} IMAGE…\ntensorboard --logdir {folder}/tb",
    )


def print_metrics(split: str, metrics: SplitMetrics, class_names: list[str]) -> None:
    """The result of `distcls eval` on the terminal."""
    Progress().finish({split: metrics.values}, worst_confusions(metrics.confusion, class_names), "")


def write_metrics(path: Path, metrics: SplitMetrics, class_names: list[str]) -> None:
    """All numbers of one split, as JSON. Rows of the confusion matrix are the true classes."""
    values = {**metrics.values, "class_names": class_names, "confusion": metrics.confusion.tolist()}
    write_text(path, json_text(values))


def write_predictions(path: Path, metrics: SplitMetrics, split: Split, class_names: list[str]) -> None:
    """A row for each image of the split: image, label, prediction, confidence."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "prediction", "confidence"])
        for i, (pred, confidence) in enumerate(zip(metrics.preds, metrics.confidence, strict=True)):
            writer.writerow([split.image_name(i), class_names[split.labels[i]], class_names[pred], f"{confidence:.6f}"])


def worst_confusions(confusion: np.ndarray, class_names: list[str], most: int = 3) -> list[tuple[str, str, int]]:
    """(true class, predicted class, how often), the most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [np.unravel_index(place, wrong.shape) for place in order]
    return [(class_names[i], class_names[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]


def first_images(data: Data, plan: BatchPlan, augment: Augmentation, run: Run) -> tuple[np.ndarray, list[str]]:
    """Pictures from the first micro-batches as the model saw them, uint8 (n, H, W, 3), and their classes.

    A batch is a function of the plan, so it can be looked at after the run as well as before.
    """
    take_turns = run.config.augment.mixup and run.config.augment.cutmix
    most = NUM_PICTURES // 3 if take_turns else NUM_PICTURES  # of one micro-batch
    few_steps = dataclasses.replace(plan, total_steps=NUM_PICTURES)
    batches = train_batches(data.train, few_steps, run.config.augment, run.device, workers=0, start=0)
    pixels: list[np.ndarray] = []
    titles: list[str] = []
    for batch in itertools.chain.from_iterable(batches):
        images, targets = augment(batch)
        shown = slice(min(most, NUM_PICTURES - len(pixels)))
        pixels.extend(augment.normalize.undo(images[shown].float()).cpu().numpy())
        shares, classes = targets[shown].topk(2, 1) if targets.ndim == 2 else (None, batch.labels[shown, None])
        titles += [_title(data.class_names, classes[i].tolist(), shares, i) for i in range(len(classes))]
        if len(pixels) == NUM_PICTURES:
            break
    return np.stack(pixels), titles


def _title(class_names: list[str], classes: list[int], shares: torch.Tensor | None, i: int) -> str:
    if shares is None or shares[i, 1] < 0.005:
        return class_names[classes[0]]
    return "\n".join(f"{share:.0%} {class_names[c]}" for c, share in zip(classes, shares[i].tolist(), strict=True))


def write_plots(
    run_dir: Path,
    data: Data,
    measured: dict[str, SplitMetrics],
    batch: tuple[np.ndarray, list[str]],
    kept_step: int | None,
) -> None:
    """plots/: curves, training images, and of test (or val) confusion, calibration, predictions and mistakes."""
    folder = run_dir / "plots"
    folder.mkdir(exist_ok=True)
    plot_curves(read_metrics(run_dir / "metrics.csv"), folder / "curves.png", kept_step)
    plot_images(*batch, folder / "train_batch.png", "Training images, as the model saw them")
    split = data.test or data.val
    if split is None:
        return
    metrics = measured[split.name]
    plot_confusion(metrics.confusion, data.class_names, split.name, folder / "confusion_matrix.png")
    plot_calibration(
        metrics.bin_confidence,
        metrics.bin_correct,
        metrics.bin_count,
        metrics.values["ece"],
        split.name,
        folder / "calibration.png",
    )
    some = np.linspace(0, len(split) - 1, min(NUM_PICTURES, len(split))).astype(int)
    _plot_predictions(
        split, metrics, some, data.class_names, folder / "predictions.png", f"Predictions on {split.name}"
    )
    wrong = np.flatnonzero(metrics.preds != split.labels)
    worst = wrong[np.argsort(-metrics.confidence[wrong], kind="stable")][:NUM_PICTURES]
    if len(worst):
        heading = f"The most confident mistakes on {split.name}"
        _plot_predictions(split, metrics, worst, data.class_names, folder / "worst_mistakes.png", heading)


def _plot_predictions(
    split: Split, metrics: SplitMetrics, images: np.ndarray, names: list[str], path: Path, heading: str
) -> None:
    right = [bool(metrics.preds[i] == split.labels[i]) for i in images]
    titles = [
        f"{names[metrics.preds[i]]} {metrics.confidence[i]:.0%}\n"
        + ("" if ok else f"is {names[split.labels[i]]}\n")
        + split.image_name(int(i))
        for i, ok in zip(images, right, strict=True)
    ]
    pixels = np.stack([split.image(int(i)) for i in images])
    plot_images(pixels, titles, path, heading, ["green" if ok else "red" for ok in right])
