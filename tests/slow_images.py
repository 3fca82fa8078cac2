"""A data set whose opening takes long, as a download does; it leaves a file `opening` meanwhile."""

from __future__ import annotations

import time
from pathlib import Path


def make(config):
    Path("opening").touch()
    time.sleep(60)
