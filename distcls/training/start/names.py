"""Names in a config that lead nowhere are refused first: before there is a run folder or any image is decoded."""

from __future__ import annotations

from distcls.config.settings import Config
from distcls.data.exclusion import read_names
from distcls.data.sources.datasets import check_source
from distcls.models.build import check_model_name
from distcls.optim.build import check_optimizer_name
from distcls.optim.losses import build_loss
from distcls.runs.tracking.trackers import check_trackers
from distcls.training.objectives.build import check_objective_name


def refuse_unknown_names(config: Config) -> None:
    """Raise UsageError for a name that is not known, MissingInputError where data.root or data.exclude is not there."""
    check_trackers(config.run.trackers)
    check_source(config.data)
    if config.data.exclude is not None:
        read_names(config.data.exclude)
    check_model_name(config.model.name)
    for settings in (config.optim, *(config.optim.for_group(group) for group in config.optim.groups)):
        check_optimizer_name(settings.name)
    build_loss(config.loss)
    check_objective_name(config.objective.name)
