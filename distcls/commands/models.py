"""`distcls models [PATTERN]`: lists the models that model.name can take."""

from __future__ import annotations

from collections.abc import Sequence

from distcls.commands.arguments import Parser
from distcls.errors import UsageError

LIMIT = 40
"""Models to describe by default: those of timm have to be built, which takes a moment each."""


def main(argv: Sequence[str]) -> int:
    """List models: a few to begin with, or those that match a pattern."""
    parser = Parser(
        prog="distcls models",
        description="List models for model.name: the built-in ones, torchvision/NAME and timm/NAME. Nothing is "
        "downloaded: `weights` says whether trained weights are here, can be downloaded, or do not exist.",
    )
    parser.add_argument(
        "pattern", metavar="PATTERN", nargs="?", help="a part of the name, such as vit, or a pattern, such as 'resnet*'"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help=f"show at most N (default: {LIMIT})")
    parser.add_argument(
        "--format", choices=["table", "csv", "jsonl"], default="table", help="how to print them (default: table)"
    )
    options = parser.parse_intermixed_args(argv)
    if options.limit < 1:
        raise UsageError(f"--limit {options.limit}: give the number of models to show, 1 or more.")
    from distcls.report.model_list import list_models

    list_models(options.pattern, options.format, options.limit)
    return 0
