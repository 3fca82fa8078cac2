"""The page of a sweep shows its trials, what mattered and what there is to choose from, in a real browser too."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from browser import opened

pytestmark = pytest.mark.extras
pytest.importorskip("optuna", reason="NO SEARCH IS TESTED: pip install 'distcls[tune]'")

from distcls.sweeps.search.page import write_sweep_page  # noqa: E402
from distcls.sweeps.search.plan import Plan  # noqa: E402
from distcls.sweeps.search.points import next_point  # noqa: E402
from distcls.sweeps.search.reporter import Reporter  # noqa: E402
from distcls.sweeps.search.study import Study  # noqa: E402

SPACE = ("optim.lr=1e-4..1e-1@log", "model.args.width=4..64@step=4", "augment.mixup=0,0.2", "augment.flip=true,false")


def made_study(plan: Plan, trials: int) -> Study:
    """A study whose accuracy depends on the rate, most of all, and on the width."""
    study, draw = Study(plan), random.Random(0)
    for number in range(trials):
        point = next_point(study, plan, lambda _: None)
        assert point is not None
        study.add(point)
        rate, width = math.log10(float(point["optim.lr"])), float(point["model.args.width"])
        accuracy = 0.95 - 0.1 * abs(rate + 2) - 0.1 / width + draw.gauss(0, 0.002)
        if number % 10 == 9:
            study.fail(number, "the loss is <not> finite at step 12")
        elif plan.pruner and number % 7 == 6:
            study.report(number, [accuracy / 2])
            study.prune(number, seconds=3)
        else:
            costs = {"parameters": width**2 * 100, "latency": width / 10000}
            values = [[accuracy + seed / 1000, *(costs[name] for name in plan.also)] for seed in range(plan.num_seeds)]
            study.complete(number, values, seconds=20 + number)
    return study


def point_at(tab: Any, line: Any) -> None:
    """Move the pointer onto a line, a little after its beginning."""
    line.scroll_into_view_if_needed()
    place = line.evaluate(
        "e => { const p = e.getPointAtLength(9).matrixTransform(e.getScreenCTM()); return [p.x, p.y]; }"
    )
    tab.mouse.move(*place)


COMMANDS = [("distcls train -c sweeps/s/best.yaml", "trains the best trial again")]


@pytest.fixture
def page(make_plan, request) -> Path:
    plan = make_plan(*SPACE, num_trials=99, **request.param)
    return write_sweep_page(made_study(plan, 24), plan, COMMANDS).resolve()


@pytest.mark.parametrize(
    "page", [{"also": ("parameters", "latency")}, {"pruner": "median", "num_seeds": 3}], indirect=True
)
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: Path, width: int, request) -> None:
    with opened(page, width) as tab:
        sections = tab.locator("section h2").all_inner_texts()
        expected = ["Result", "History", "What mattered", "All settings at once", "Trials", "Failed"]
        is_multiple = "What there is to choose from" in sections
        assert [title for title in sections if title != "What there is to choose from"] == expected
        assert tab.locator("#trials tbody tr").count() == 24
        assert tab.locator(".parallel polyline").count() == len(
            [text for text in tab.locator("#trials tbody td:nth-child(2)").all_inner_texts() if text == "finished"]
        )
        assert tab.locator("#what-mattered tbody tr td").first.inner_text() == "optim.lr"
        point_at(tab, tab.locator(".parallel polyline.best").last)
        assert "optim.lr 0.0" in tab.locator("#tip").inner_text() and "val accuracy" in tab.locator("#tip").inner_text()
        best = tab.locator("#result h3").first.inner_text().removeprefix("The best: ")
        assert tab.locator("#trials tbody tr td").first.inner_text() == best, "the best comes first"
        tab.locator("#trials th button", has_text="time").click()
        assert tab.locator("#trials tbody tr td:last-child").first.inner_text() == "0:00:43" or is_multiple is False
        assert "the loss is <not> finite" in tab.locator("#failed").inner_text()
        charts = tab.locator("#what-there-is-to-choose-from .chart").count()
        assert charts == (2 if is_multiple else 0)
        if is_multiple:
            assert tab.locator(".parallel polyline.best").count() > 1


def test_a_sweep_that_has_hardly_begun_has_a_page(make_plan) -> None:
    plan = make_plan(*SPACE, num_trials=3)
    study = Study(plan)
    point = next_point(study, plan, lambda _: None)
    assert point is not None
    study.add(point)
    assert "unfinished" in write_sweep_page(study, plan, []).read_text()
    study.fail(0, "it diverged")
    text = write_sweep_page(study, plan, []).read_text()
    assert "it diverged" in text and "What mattered" not in text


def test_the_table_on_the_terminal(make_plan, capsys) -> None:
    plan = make_plan(*SPACE, num_trials=99, num_seeds=2)
    Reporter(plan).table(made_study(plan, 11))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "trial",
        "state",
        *(word.split("=")[0] for word in SPACE),
        "val",
        "accuracy",
        "std",
        "time",
    ]
    values = [float(line.split("%")[0].split()[-1]) for line in lines[2:12]]
    assert values == sorted(values, reverse=True), "the best comes first"
    assert lines[12].startswith("trial-0009  failed") and lines[13] == (
        "trial-0009 failed: the loss is <not> finite at step 12"
    )
