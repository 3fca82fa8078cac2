"""best.yaml trains the best trial again, as somebody would who knows nothing of the sweep."""

from __future__ import annotations

import pytest
from made_runs import write
from sweeps_of_tests import read

pytestmark = pytest.mark.extras
pytest.importorskip("optuna", reason="NO SEARCH IS TESTED: pip install 'distcls[tune]'")

from distcls.config.loading import load_config  # noqa: E402
from distcls.config.yaml_text import to_yaml  # noqa: E402
from distcls.sweeps.search.best import write_best  # noqa: E402
from distcls.sweeps.search.plan import settle  # noqa: E402
from distcls.sweeps.search.study import Study  # noqa: E402
from distcls.sweeps.search.trial_run import runs_of_trial  # noqa: E402


@pytest.mark.parametrize(
    ("words", "threads_of_sweep", "expected"),
    [
        (("optim.lr=0.1,0.2",), 2, None),
        (("optim.lr=0.1,0.2", "train.num_threads=3"), None, 3),
        (("train.num_threads=3,4",), 2, 3),
    ],
)
def test_threads_that_make_room_for_other_trials_are_left_out(make_plan, words, threads_of_sweep, expected) -> None:
    plan = settle(make_plan(*words), read, threads_of_sweep)
    study, point = Study(plan), next(plan.space.grid())
    (run,) = runs_of_trial(plan, 0, point, read)
    assert run.config.train.num_threads == (expected or threads_of_sweep)
    run.dir.mkdir()
    (run.dir / "config.yaml").write_text(to_yaml(run.config))
    write(run.dir, "given", {"given": sorted(run.config.given)})
    study.complete(study.add(point).number, [[0.9]])
    path = write_best(plan, study.trials()[0])
    assert path is not None
    best = load_config(path)
    assert best.train.num_threads == expected and best.optim.lr == run.config.optim.lr
