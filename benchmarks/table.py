"""Prints the figures that benchmarks noted (side_by_side.note) as a table for RESULTS.md.

python benchmarks/table.py results.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    file = Path(sys.argv[1])
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    print("| benchmark | case | side | figure | |\n|---|---|---|---|---|")
    for row in rows:
        spread = f"{row['low']:.4g} to {row['high']:.4g}" if row["low"] != row["high"] else ""
        print(f"| {row['benchmark']} | {row['case']} | {row['side']} | {row['value']:.4g} {row['unit']} | {spread} |")


if __name__ == "__main__":
    main()
