"""The entry point of `python -m distcls.train`, `accelerate launch -m distcls.train`, torchrun and Slurm.

It is only ever run, never imported: as an attribute of the package, `distcls.train` is the function of api.py. What
it starts is `main` of commands/train.py; the framework's table of contents is training/loop.py.
"""

from __future__ import annotations

import sys

from distcls.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
