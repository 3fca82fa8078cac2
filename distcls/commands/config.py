"""`distcls config schema`: prints the JSON schema with which editors complete and check YAML configs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import Parser
from distcls.config.schema import json_schema
from distcls.errors import DiskError


def main(argv: Sequence[str]) -> int:
    """Print the JSON schema of configs, or write it to a file."""
    parser = Parser(prog="distcls config", description="Tools for configs.")
    actions = parser.add_subparsers(metavar="schema", required=True)
    text = "Print the JSON schema with which editors complete and check YAML configs."
    schema = actions.add_parser("schema", help=text, description=text)
    schema.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it to this file")
    output = parser.parse_args(argv).output
    text = json.dumps(json_schema(), indent=2) + "\n"
    if output is None:
        print(text, end="")
        return 0
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskError(f"{output}: cannot write the schema ({error.strerror})") from error
    return 0
