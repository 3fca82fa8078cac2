"""So that `python -m distcls` is the same as `distcls`."""

from __future__ import annotations

import sys

from distcls.cli import main

if __name__ == "__main__":
    sys.exit(main())
