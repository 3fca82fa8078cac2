"""Prints what `distcls models` finds: models with their size, and whether weights for them are here."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Sequence

from distcls.models.catalogue import RECOMMENDED, Facts, describe_model, find_models, names_by_prefix
from distcls.models.layers import CONVENTION
from distcls.terminal.columns import lay_out, millions, three_digits
from distcls.terminal.progress import Progress
from distcls.terminal.screens import open_screen

FIELDS = [field.name for field in dataclasses.fields(Facts)]


def list_models(pattern: str | None, output: str, most: int) -> None:
    """Print the models that match a pattern, or a few to begin with. Raises UsageError if nothing matches.

    output: table, csv or jsonl. most: how many that match to describe; stderr says how many more there are.
    """
    names = list(RECOMMENDED) if pattern is None else find_models(pattern)
    shown = names if pattern is None else names[:most]
    progress, facts = Progress(sys.stderr), []
    for done, name in enumerate(shown):
        if sys.stderr.isatty():
            progress.working("counting", done, len(shown))
        facts.append(describe_model(name))
    progress.close()
    if output == "table":
        _print_table(facts, pattern)
    else:
        _print_rows(facts, output)
    if len(names) > len(shown):
        more = f"{len(names) - len(shown):,} more match {pattern!r}"
        print(f"{more}: narrow it down, or show all with --limit {len(names)}", file=sys.stderr)


def _print_table(facts: Sequence[Facts], pattern: str | None) -> None:
    screen = open_screen(sys.stdout)
    head = ["model.name", "params", "GFLOPs", "pixels", "weights"]
    rows = [
        [
            one.name,
            millions(one.num_parameters),
            "" if one.flops is None else three_digits(one.flops / 1e9),
            str(one.image_size),
            one.weights,
        ]
        for one in facts
    ]
    title, *lines = lay_out(head, rows, 1, screen.width)
    screen.say(title, "bold")
    for line, one in zip(lines, facts, strict=True):
        screen.say(line, "green" if one.weights == "here" else "")
    screen.say("")
    classes = " or ".join(f"{number:,}" for number in sorted({one.num_classes for one in facts}))
    screen.say(f"Counted for {classes} classes and one image; {CONVENTION}.")
    if pattern is None:
        counts = [f"{len(names):,} from {prefix[:-1]}" for prefix, names in names_by_prefix().items() if prefix]
        screen.say(f"There are {' and '.join(counts)}. Search by part of a name:")
        screen.say("  distcls models vit")
        screen.say("  distcls models 'timm/resnet*'")


def _print_rows(facts: Sequence[Facts], output: str) -> None:
    if output == "jsonl":
        for one in facts:
            print(json.dumps(dataclasses.asdict(one)))
        return
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(one) for one in facts)
