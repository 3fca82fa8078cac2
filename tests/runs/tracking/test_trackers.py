"""`run.trackers` names what there is."""

from __future__ import annotations

import pytest

from distcls.errors import UsageError
from distcls.runs.tracking.trackers import Tracker


def test_unknown_tracker_lists_the_known(tmp_path):
    with pytest.raises(UsageError, match=r"'tensorbord'.*: give tensorboard"):
        Tracker(tmp_path, ["tensorbord"])
    assert not (tmp_path / "metrics.csv").exists()
