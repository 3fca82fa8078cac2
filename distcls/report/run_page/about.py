"""The part of a run's page about what it was made from: model, data, config, environment, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from distcls.config.differences import differences
from distcls.config.settings import Config
from distcls.config.wording import count
from distcls.config.yaml_text import quoted, shown
from distcls.errors import DistclsError
from distcls.report.html.page import Section, joined, render
from distcls.report.html.tables import Cell, pairs, table
from distcls.report.run_page.facts import RunFacts
from distcls.runs.resuming import choose_folder, default_name
from distcls.terminal.columns import three_digits

MOST_BAD_FILES = 20

RAISED = 1e8
"""FLOPs from which they are shown in billions."""


def model_section(facts: RunFacts) -> Section | None:
    """Return the section with the network's layers, parameters, FLOPs, size and latency."""
    model = facts.model
    if not model:
        why = facts.left_out.get("model")
        return None if why is None else Section("Model", Markup("<p>Left out: {}</p>").format(why))
    frozen = model["parameters"] - model["trainable_parameters"]
    totals: list[tuple[str, str | Markup]] = [
        ("name", str(model["model"])),
        ("parameters", f"{model['parameters']:,}" + (f", {frozen:,} of them frozen" if frozen else "")),
        ("images", f"{model['image_size']} × {model['image_size']} pixels"),
        ("compute per image", _flops(model["flops"])),
        ("size", f"{three_digits(model['size_bytes'] / 1e6)} MB"),
        ("precision", str(model["precision"])),
    ]
    for size, seconds in model["latency_seconds"].items():
        value = "not measured" if seconds is None else f"{three_digits(1000 * seconds)} ms"
        totals.append((f"latency of {count(int(size), 'image')} ({model['device']})", value))
    return Section(
        "Model",
        joined([pairs(totals), Markup("<h3>Layers</h3>"), _layers(model["layers"])]),
        f"{model['flops_convention']}.",
    )


def _layers(layers: list[Mapping[str, Any]]) -> Markup:
    rows = []
    for layer in layers[1:] or layers:
        depth = str(layer["name"]).count(".")
        name = Markup('<span style="padding-left:{}rem">{}</span>').format(
            round(0.9 * depth, 1), str(layer["name"]).rpartition(".")[2] or "model"
        )
        shape = " × ".join(map(str, layer["output_shape"] or ()))
        numbers = [
            Cell(text if layer[key] else "", layer[key], style="" if depth == 0 else "dim")
            for key, text in (("parameters", f"{layer['parameters']:,}"), ("flops", _flops(layer["flops"])))
        ]
        rows.append([Cell(name, str(layer["name"])), str(layer["type"]), shape, *numbers])
    return table(["layer", "type", "output", "parameters", "FLOPs"], rows, sortable=False, tall=True)


def _flops(flops: int) -> str:
    return f"{flops / 1e9:,.2f} GFLOPs" if flops >= RAISED else f"{flops / 1e6:,.3g} MFLOPs"


def data_section(facts: RunFacts) -> Section | None:
    """Return the section with the images of each split and class, and what is wrong with them."""
    data = facts.data
    if not data.get("splits"):
        return None
    splits = data["splits"]
    size = data.get("image_size")
    totals: list[tuple[str, str | Markup]] = [
        ("data", str(data.get("root") or data.get("name"))),
        ("decoded to", f"{size} × {size} pixels ({data.get('resize')})"),
        *[(name, count(split["num_images"], "image")) for name, split in splits.items()],
        ("unreadable", count(len(data.get("bad_files", [])), "file")),
    ]
    parts = [pairs(totals)]
    for warning in data.get("warnings", []):
        parts.append(Markup("<p>⚠ {}</p>").format(warning))
    largest = max((n for split in splits.values() for n in split["per_class"].values()), default=1) or 1
    rows = [
        [name, *(_bar(split["per_class"].get(name, 0), largest) for split in splits.values())]
        for name in facts.class_names
    ]
    parts += [Markup("<h3>Images of each class</h3>"), table(["class", *splits], rows, tall=True)]
    bad = data.get("bad_files", [])
    if bad:
        listed = [[str(file["path"]), str(file["reason"])] for file in bad[:MOST_BAD_FILES]]
        parts += [Markup("<h3>Unreadable files</h3>"), table(["file", "reason"], listed, sortable=False)]
    return Section("Data", joined(parts))


def _bar(number: int, largest: int) -> Cell:
    return Cell(f"{number:,}", number, bar=number / largest)


def config_section(facts: RunFacts) -> Section:
    """Return the section with the settings that differ from the defaults, and the whole config folded away."""
    parts = []
    if facts.config is not None:
        changed = [
            [one.path, Cell(shown(one.after), style="code"), Cell(shown(one.before), style="code dim")]
            for one in differences(Config(), facts.config, everything=True)
        ]
        parts.append(table(["setting", "here", "default"], changed) if changed else Markup("<p>All defaults.</p>"))
    parts.append(
        Markup("<details><summary>The whole config</summary><pre>{}</pre></details>").format(facts.config_text)
    )
    return Section("Config", joined(parts), "The settings that differ from the defaults.")


def environment_section(facts: RunFacts) -> Section | None:
    """Return the section with the command, the machine and the versions."""
    found = facts.environment
    if not found:
        return None
    command = list(map(str, found.get("command", [])))
    shown_command = shlex.join(_typed(command) or command)
    rows: list[tuple[str, str | Markup]] = [
        ("started", str(found.get("time"))),
        ("host", str(found.get("host"))),
        ("device", f"{found.get('world_size')} × {found.get('device')} ({found.get('device_name')})"),
        ("threads", str(found.get("num_threads"))),
        ("git commit", str(found.get("git_commit") or "not a git checkout")),
        *[(name, str(version)) for name, version in found.get("versions", {}).items()],
    ]
    return Section("Environment", joined([Markup("<pre>{}</pre>").format(shown_command), pairs(rows)]))


def next_section(facts: RunFacts) -> Section:
    """Return the section with the commands to continue with."""
    run = shlex.quote(str(facts.dir))
    if facts.state != "finished":
        processes = facts.environment.get("world_size", 1)
        resumes = "resumes the run" + (f", on one process instead of {processes}" if processes > 1 else "")
        commands = [
            (f"distcls report {run}", "makes this page again, with what there is by then"),
            (_resuming(facts), resumes),
        ]
    else:
        commands = [
            (f"distcls eval {run}", "measures the model again, or with --data on other images"),
            (f"distcls predict {run} IMAGE…", "classifies images"),
            (f"distcls summary {run}", "shows the layers in the terminal"),
            (f"distcls report {run}", "makes this page and plots/ again"),
        ]
        if facts.config is None or "tensorboard" in facts.config.run.trackers:
            commands.append((f"tensorboard --logdir {run}/tb", "shows the curves while a run is in progress"))
    return Section("Next", render("commands.html", commands=[pair for pair in commands if pair[0]]))


def _resuming(facts: RunFacts) -> str:
    """Return the command that resumes the run, wherever it was started; nothing if its config is lost."""
    words = _typed(list(map(str, facts.environment.get("command", []))))
    if facts.config is None or (words and _leads_to(facts.dir, facts.config, words)):
        return shlex.join(words)
    return shlex.join(["distcls", "train", "-c", str(facts.dir / "config.yaml"), f"run.dir={quoted(str(facts.dir))}"])


def _leads_to(run_dir: Path, config: Config, words: Sequence[str]) -> bool:
    """True if a command, typed here, trains in this folder: not if the run was moved, or started elsewhere."""
    file = next((after for word, after in pairwise(words) if word in ("-c", "--config")), None)
    try:
        return choose_folder(config, default_name(config, file)).resolve() == run_dir.resolve()
    except (OSError, DistclsError):  # another run, or none that can be read, is where this one was
        return False


def _typed(argv: Sequence[str]) -> list[str]:
    """Return what to type for the sys.argv of `distcls train`, however it was launched; nothing for other programs.

    torchrun and accelerate leave the path of a module there, `distcls submit` both words in one. The arguments of a
    notebook or of your own script do not say what was trained.
    """
    program, *words = argv or [""]
    ending = Path(program).parts[-2:]
    if program == "distcls train" or ending == ("distcls", "train.py"):
        return ["distcls", "train", *words]
    is_distcls = ending[-1:] == ("distcls",) or ending == ("distcls", "__main__.py")
    return ["distcls", *words] if is_distcls and words[:1] == ["train"] else []
