"""Objectives are found by name, and wrong names and arguments say what to type."""

from __future__ import annotations

from typing import Any

import pytest

from distcls.config.settings import Config, LossConfig, ObjectiveConfig
from distcls.errors import UsageError
from distcls.training.objectives.build import build_objective
from distcls.training.start.names import refuse_unknown_names

TASK: Any = type("Task", (), {"config": type("Config", (), {"loss": LossConfig()}), "class_weights": None})


def test_your_own_objective_gets_its_arguments():
    config = ObjectiveConfig(name="own_objectives:TwoViews", args={"momentum": 0.3})
    objective: Any = build_objective(config, TASK)
    assert objective.momentum == 0.3 and objective.task is TASK


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ObjectiveConfig(name="supervized"), "no such objective. Did you mean 'supervised'.*my_pkg.module:make"),
        (ObjectiveConfig(args={"x": 1}), "objective.args={'x': 1} do not fit"),
        (ObjectiveConfig(name="own_objectives:Center"), "cannot be called with"),
        (
            ObjectiveConfig(name="own_objectives:not_an_objective"),
            "returned a int, expected an Objective: derive it from",
        ),
    ],
)
def test_what_is_no_objective_is_refused(config, message):
    with pytest.raises(UsageError, match=message):
        build_objective(config, TASK)


def test_a_name_that_leads_nowhere_is_refused_before_images_are_decoded():
    with pytest.raises(UsageError, match="objective.name=supervized: no such objective"):
        refuse_unknown_names(Config(objective=ObjectiveConfig(name="supervized")))
