"""Writes the model card, README.md: what a run's model is, how good, made from what, and what to keep in mind.

Everything is taken from the run folder. None of the run's images is shown, because a card is public.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distcls.config.differences import differences
from distcls.config.metrics import METRICS
from distcls.config.settings import KINDS_OF_PATHS, Config
from distcls.config.wording import count
from distcls.files.atomic import printable
from distcls.hub.model_folder import Written, public_config
from distcls.hub.options import PushOptions
from distcls.inference.metrics import measure_classes, worst_confusions
from distcls.models.init_from import is_file
from distcls.models.libraries import library_of
from distcls.report.confusion import plot_confusion
from distcls.report.curves import plot_curves
from distcls.report.run_page.facts import RunFacts
from distcls.report.run_page.results import summary
from distcls.runs.status import read_object

TASK = "image-classification"

HUB_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "imagenet": "ILSVRC/imagenet-1k",
    "tiny_imagenet": "zh-plus/tiny-imagenet",
}
"""The Hub's names for named data sets."""

DATASET_TYPES = {"folder": "imagefolder", "csv": "csv", "digits": "digits"}
"""What the Hub calls data that is not on it."""

HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "macro_precision": "precision", "macro_recall": "recall"}
"""The Hub's names for metrics, by ours."""

RESIZINGS = {
    "crop": "the central square{share}",
    "pad": "the whole image, with borders ({background})",
    "squish": "the whole image, whatever its shape, squeezed into the square",
}

MOST_CLASSES, MOST_NAMES = 50, 200
"""Rows of the table of classes; class names that are listed."""

FEW_IMAGES = 50
"""Of a class in training: fewer are worth a warning."""

MOST_CONFUSIONS = 3

SIZED = "torchvision/vit_"
"""How the names of torchvision's networks begin that are built for one image size."""

UNMEASURED = {"finished": "No val or test images were set aside, so there are no metrics.", None: "There are none."}
"""Why there are no results, by the state of the run; any other state has not finished."""


def write_card(folder: Path, facts: RunFacts, config: Config, options: PushOptions, written: Written) -> None:
    """Write README.md and its pictures. config: the run's."""
    if facts.confusion is not None:
        plot_confusion(facts.confusion, facts.class_names, str(facts.split), folder / "confusion_matrix.png")
        plot_curves(facts.rows, folder / "curves.png", facts.kept_step)
    header = _header(facts, config, options, written).to_yaml()
    text = _environment().get_template("card.md.jinja").render(_content(facts, config, options, written))
    (folder / "README.md").write_text(printable(f"---\n{header}\n---\n\n{text}"), encoding="utf-8")


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


# The header that the Hub reads ---------------------------------------------------------------------


def _header(facts: RunFacts, config: Config, options: PushOptions, written: Written) -> ModelCardData:
    is_timm = written.loads_with == "timm"
    dataset = HUB_DATASETS.get(config.data.name)
    return ModelCardData(
        library_name="timm" if is_timm else "distcls",
        pipeline_tag=TASK,
        license=options.license,
        tags=[TASK, "distcls", *(["timm", "transformers"] if is_timm else []), config.model.name],
        base_model=_base_model(facts),
        datasets=[dataset] if dataset else None,
        metrics=["accuracy", "f1"],
        model_name=options.name,
        eval_results=list(_results(facts, config)) or None,
    )


def _results(facts: RunFacts, config: Config) -> Iterator[EvalResult]:
    for split, values in facts.metrics.items():
        for ours, theirs in HUB_METRICS.items():
            if ours in values:
                yield EvalResult(
                    task_type=TASK,
                    dataset_type=HUB_DATASETS.get(config.data.name, DATASET_TYPES.get(config.data.name, "other")),
                    dataset_name=data_name(config),
                    dataset_split=split,
                    metric_type=theirs,
                    metric_name=METRICS[ours].title,
                    metric_value=round(float(values[ours]), 6),
                )


def _base_model(facts: RunFacts) -> str | None:
    """Return the Hub's name for the weights that a run started from, if they are timm's, which are all on the Hub."""
    found = read_object(facts.dir / "weights.json")
    weights = str(found.get("weights"))
    return weights if found.get("setting") == "model.pretrained=true" and weights.startswith("timm/") else None


def data_name(config: Config) -> str:
    """Return the name of a run's data set: of a folder or file, only its own, not where it is."""
    is_of_user = config.data.name in KINDS_OF_PATHS and config.data.root
    return printable(Path(str(config.data.root)).name or "images" if is_of_user else config.data.name)


# The text ------------------------------------------------------------------------------------------


def _content(facts: RunFacts, config: Config, options: PushOptions, written: Written) -> Mapping[str, Any]:
    """Return everything that card.md.jinja names."""
    share = config.data.crop_fraction
    normalize, found = config.augment.normalize, library_of(config.model.name)
    classes, forward = _classes(facts), "model(transform(image)[None])"
    size = facts.data.get("image_size") or facts.model.get("image_size")
    arguments = {**({"image_size": size} if config.model.name.startswith(SIZED) else {}), **config.model.args}
    names = [_cell(name) for name in facts.class_names]
    more = f" and {len(names) - MOST_NAMES:,} more (`classes.json`)" if len(names) > MOST_NAMES else ""
    return {
        "name": options.name,
        "repo": options.repo,
        "summary": _cell(summary(facts)),
        "picture": facts.confusion is not None,
        "split": facts.split,
        "loads_with": written.loads_with,
        "logits": f"({forward} / {written.separate_temperature!r})" if written.separate_temperature != 1 else forward,
        "model": config.model.name,
        "architecture": found[1] if found else "",
        "arguments": "".join(f", {name}={value!r}" for name, value in arguments.items()),
        "class_names": names,
        "size": size,
        "resizing": RESIZINGS[config.data.resize].format(
            share="" if share == 1 else f" of {share:.4g} times the short side", background=config.data.background
        ),
        "interpolation": config.data.interpolation,
        "mean": [round(float(value), 6) for value in normalize.mean],
        "std": [round(float(value), 6) for value in normalize.std],
        "notes": list(_notes(facts, config, written)),
        "splits": list(facts.metrics),
        "unmeasured": UNMEASURED.get(facts.state, "The run has not finished, so there are no final metrics."),
        "metrics": list(_metrics(facts)),
        "chosen": _chosen(facts, config),
        "classes": classes[:MOST_CLASSES],
        "left_out": f"{len(classes) - MOST_CLASSES:,}" if len(classes) > MOST_CLASSES else "",
        "data": _data(facts, config),
        "counts": [(name, f"{split['num_images']:,}") for name, split in facts.data.get("splits", {}).items()],
        "listed_classes": ", ".join(names[:MOST_NAMES]) + more,
        "limits": list(_limits(facts, config)),
        "training": _training(facts, config),
        "settings": _settings(config),
        "environment": list(_machine(facts)),
    }


def _cell(text: object) -> str:
    """Return a text that breaks no table, link or emphasis of Markdown."""
    line = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in r"\|`*_[]<>#" else letter for letter in line)


def _metrics(facts: RunFacts) -> Iterator[dict[str, Any]]:
    for metric in METRICS.values():
        if metric.name == "top5" and len(facts.class_names) <= 5:
            continue
        texts = []
        for values in facts.metrics.values():
            interval = (values.get("intervals") or {}).get(metric.name)
            shown = metric.text(values[metric.name]) if metric.name in values else "–"
            texts.append(shown + (f" ({metric.text(interval[0])} to {metric.text(interval[1])})" if interval else ""))
        if any(text != "–" for text in texts):
            yield {"title": metric.title, "texts": texts}


def _chosen(facts: RunFacts, config: Config) -> str:
    lines = []
    if "val" in facts.metrics:
        lines.append(
            f"The val split chose the best weights (by {METRICS[config.train.best_metric].title}), so its numbers are "
            "slightly optimistic."
        )
    if "test" in facts.metrics:
        lines.append("The test split was evaluated once, at the end.")
    else:
        lines.append("There was no test split.")
    if facts.temperature != 1:
        lines.append("Loss, calibration error and Brier score were measured before the temperature was fitted.")
    if config.train.tta != "none":
        lines.append(
            f"They were measured with test-time augmentation (`{config.train.tta}`); a single view of each image, as "
            "other programs compute it, may do slightly worse."
        )
    return " ".join(lines)


def _classes(facts: RunFacts) -> list[dict[str, str]]:
    if facts.confusion is None:
        return []
    rows = zip(facts.class_names, measure_classes(facts.confusion), strict=True)
    return [
        {
            "name": _cell(name),
            **{key: f"{values[key]:.3f}" for key in ("precision", "recall", "f1")},
            "count": f"{values['count']:,}",
        }
        for name, values in sorted(rows, key=lambda row: row[1]["f1"])
    ]


def _notes(facts: RunFacts, config: Config, written: Written) -> Iterator[str]:
    """Yield sentences about the probabilities, and where other programs see an image differently."""
    if written.temperature != 1:
        yield (
            f"\nProbabilities are calibrated: the weights of the last layer are divided by {written.temperature:.4g}, "
            "a temperature that was fitted on the val split."
        )
    if written.separate_temperature != 1:
        yield (
            f"\nProbabilities are calibrated only if you divide the logits by {written.separate_temperature!r} before "
            "the softmax, as distcls does: the temperature could not be built into the weights. transformers' pipeline "
            "leaves it out; the order of the classes is the same."
        )
    if written.loads_with != "timm":
        return
    yield (
        "\nLoaded with timm, the model's probabilities differed from those of the run by at most "
        f"{written.largest_difference:.2g} on {count(written.num_proven, 'image')} of {facts.data.get('image_size')} "
        "pixels. Resizing differs a little: timm rounds to whole pixels twice, distcls once."
    )
    if config.data.resize == "pad":
        yield f"\ntimm pads with the mean color; distcls padded with {config.data.background} in training."
    if config.data.resize == "crop" and config.data.crop_fraction < 1:
        yield "\ntimm also crops images that already have the final size; distcls takes those whole."
    yield (
        f"\nTransparent images: distcls draws them on {config.data.background}; in other programs, you choose the "
        "background."
    )


def _data(facts: RunFacts, config: Config) -> str:
    name = data_name(config)
    hub = HUB_DATASETS.get(config.data.name)
    lines = [f"[{name}](https://huggingface.co/datasets/{hub})." if hub else f"{_cell(name)}."]
    bad = len(facts.data.get("bad_files", []))
    if bad:
        lines.append(f"{count(bad, 'unreadable file')} were left out.")
    warnings = map(str, facts.data.get("warnings", []))
    lines += [f"{_cell(one.rstrip('.'))}." for one in warnings if not one.startswith("data.exclude")]  # it names images
    return " ".join(lines)


def _limits(facts: RunFacts, config: Config) -> Iterator[str]:
    yield (
        f"It always answers with one of its {count(len(facts.class_names), 'class')}, even if an image shows none "
        "of them."
    )
    evaluated = facts.measured.get("count")
    if evaluated is None:
        yield "It has not been evaluated on images that it did not see in training."
    else:
        yield (
            f"It was evaluated on {count(int(evaluated), f'{facts.split} image')} from the same source as its training "
            "images, and on no others: expect lower accuracy elsewhere. Results were not compared across groups of "
            "people, places or devices."
        )
    if facts.confusion is not None:
        worst = worst_confusions(facts.confusion, [_cell(name) for name in facts.class_names], MOST_CONFUSIONS)
        if worst:
            pairs = [f"{true} for {predicted} ({number:,})" for true, predicted, number in worst]
            yield f"Most frequent mistakes on the {facts.split} split: it mistakes {', '.join(pairs)}."
    per_class = facts.data.get("splits", {}).get("train", {}).get("per_class", {})
    few = [(number, _cell(name)) for name, number in per_class.items() if number < FEW_IMAGES]
    if few:
        shown = ", ".join(f"{name} ({number})" for number, name in sorted(few)[:5])
        rest = f" and {len(few) - 5} more" if len(few) > 5 else ""
        yield f"Fewer than {FEW_IMAGES} training images: {shown}{rest}."
    if facts.temperature == 1 and "ece" in facts.measured:
        yield (
            f"Its probabilities are not calibrated: confidence and accuracy are {facts.measured['ece']:.3f} apart on "
            "average (expected calibration error)."
        )
    if config.model.starts_trained:
        yield "It started from trained weights, whose license and biases it inherits; see Training."


def _training(facts: RunFacts, config: Config) -> str:
    parameters = facts.model.get("parameters")
    size = f" with {parameters:,} parameters" if parameters else ""
    step, seconds = facts.status.get("step"), facts.status.get("seconds")
    took = f" in {float(seconds) / 60:,.1f} minutes" if isinstance(seconds, int | float) else ""
    start = _start(facts)
    begun = f" It started from {_cell(start)}." if start else ""
    steps = f", {count(int(step), 'step')} of {count(config.train.global_batch_size, 'image')}{took}" if step else ""
    return f"`{config.model.name}`{size}{steps}; seed {config.train.seed}.{begun}"


def _start(facts: RunFacts) -> str | None:
    """Return the name of the weights that a run started from: of a file or a run, only its own, not where it is."""
    found = read_object(facts.dir / "weights.json")
    name, _, given = str(found.get("setting")).partition("=")
    is_path = name == "model.init_from" or (name == "model.weights" and is_file(given))
    return Path(given).name if is_path else found.get("weights")


def _settings(config: Config) -> str:
    tree: dict[str, Any] = {}
    for one in differences(Config(), public_config(config)):
        *sections, name = one.path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = one.after
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).strip()


def _machine(facts: RunFacts) -> Iterator[tuple[str, str]]:
    """Yield what the run was trained on, without the names of the machine and its folders."""
    found = facts.environment
    if not found:
        return
    yield "device", f"{found.get('world_size')} × {found.get('device')} ({found.get('device_name')})"
    yield from ((name, str(version)) for name, version in found.get("versions", {}).items() if version)
