"""A config that an earlier version saved is the same run today."""

from __future__ import annotations

from mistakes import message

from distcls.config.differences import differences
from distcls.config.loading import load_config, read_config
from distcls.config.yaml_text import to_yaml

IGNORED = "optim: {name: adamw, momentum: 0.5, schedule: constant, min_lr: 1e-5}\ndata: {decode_size: 64}\n"


def test_what_did_nothing_is_no_difference_to_a_config_without_it(write_config) -> None:
    path = write_config(IGNORED)
    assert differences(read_config(path), load_config(None, ["optim.schedule=constant", "preset=none"])) == []


def test_a_config_of_a_run_may_be_given_again_as_it_is(write_config, tmp_path) -> None:
    """A user's own file with the same settings is refused."""
    assert "3 mistakes" in message(path=write_config(IGNORED))
    (tmp_path / "config.yaml").write_text(IGNORED)
    (tmp_path / "status.json").write_text("{}")
    config = load_config(tmp_path / "config.yaml")
    assert (config.optim.momentum, config.optim.min_lr, config.data.decode_size) == (0.9, 0.0, None)


def test_what_is_up_to_date_stays(write_config) -> None:
    config = load_config(None, ["optim.name=sgd", "optim.momentum=0.5", "loss.name=focal", "loss.gamma=3"])
    assert read_config(write_config(to_yaml(config))) == config


def test_a_group_forgets_what_did_nothing_in_it(write_config) -> None:
    group = "{match: head, name: sgd, momentum: 0.5, nesterov: true, gamma: 0.5, milestones: ['50%']}"
    path = write_config(f"optim: {{name: adamw, schedule: cosine, groups: [{group}]}}\n")
    (kept,) = read_config(path).optim.groups
    assert (kept.momentum, kept.nesterov, kept.gamma, kept.milestones) == (0.5, True, None, None)


def test_what_only_a_group_of_parameters_reads_stays(write_config) -> None:
    settings = ["optim.momentum=0.8", "optim.schedule=constant", "optim.min_lr=1e-5"]
    groups = "optim.groups=[{match: head, name: sgd, schedule: cosine}]"
    config = load_config(None, ["optim.name=adamw", *settings, groups])
    assert read_config(write_config(to_yaml(config))) == config
