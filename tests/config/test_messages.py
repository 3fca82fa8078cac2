"""Who mistypes a setting or its value reads where, what was expected, and what may have been meant."""

from __future__ import annotations

import pytest
from mistakes import message

from distcls.config.messages import settings_like


def test_unknown_setting_names_the_place_and_the_nearest(write_config) -> None:
    path = write_config("# comment\noptim:\n  name: sgd\n  lrr: 1\n")
    assert message(path=path) == "x.yaml:4: unknown setting optim.lrr: did you mean 'optim.lr'?"
    assert message("optim.lrr=1") == "optim.lrr=1: unknown setting optim.lrr: did you mean 'optim.lr'?"


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=1", "'optim.lr'"),
        ("train.lr=1", "'optim.lr'"),
        ("name=x", "'data.name', 'model.name', 'objective.name', 'loss.name', 'optim.name' or 'run.name'"),
        ("num_epoch=3", "'train.num_epochs'"),
        ("optm.lr=1", "'optim'"),
        ("optim.learning_rate=1", "'optim.lr'"),
        ("train.epochs=3", "'train.num_epochs'"),
        ("train.batch_size=32", "'train.global_batch_size'"),
        ("dropout=0.3", "'model.args.dropout'"),
        ("pretrained=true", "'model.pretrained'"),
        ("augment.normalize.men=[1,1,1]", "'augment.normalize.mean'"),
        ("optim.groups=[{mach: head}]", "'match'"),
    ],
)
def test_unknown_setting_suggests(override: str, meant: str) -> None:
    assert message(override).endswith(f"did you mean {meant}?")


def test_unknown_setting_lists_what_there_is() -> None:
    assert message("loss.xyzzy=1").endswith(
        "unknown setting loss.xyzzy: loss has name, label_smoothing, gamma, class_weights, beta, args"
    )
    assert "a config has preset, data, augment, model, objective, loss, optim, train, run" in message("xyzzy=1")


def test_settings_like_finds_settings_without_their_section() -> None:
    assert settings_like("optim.lr") == settings_like("lr") == ["optim.lr"]
    assert "train.global_batch_size" in settings_like("batch_size")
    assert settings_like("xyzzy") == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr=fast", "optim.lr must be a number above 0, but 'fast' was given (Peak learning rate.)"),
        ("optim.lr='1'", "optim.lr must be a number above 0, but '1' was given"),
        ("optim.lr=0", "optim.lr must be a number above 0, but 0 was given"),
        ("optim.lr=.inf", "optim.lr must be a number above 0, but .inf was given"),
        ("optim.lr=null", "optim.lr must be a number above 0, but null was given"),
        (f"optim.lr={'9' * 400}", "optim.lr must be a number above 0, but 99999"),
        (f"optim.betas=[0.9, {'9' * 400}]", "optim.betas[1] must be a number, but 99999"),
        ("optim.lr=true", "optim.lr must be a number above 0, but true was given"),
        ("optim.lr=[1]", "optim.lr must be a number above 0, but [1] was given"),
        ("optim.lr.x=1", 'optim.lr must be a number above 0, but {"x": 1} was given'),
        ("optim.momentum=1", "must be a number at least 0 and below 1, but 1 was given"),
        ("data.max_bad_fraction=2", "must be a number at least 0 and at most 1, but 2 was given"),
        ("train.seed=1.0", "train.seed must be a whole number at least 0"),
        ("train.seed=1.5e0", "train.seed must be a whole number at least 0"),
        ("train.seed=true", "train.seed must be a whole number at least 0"),
        ("train.micro_batch_size=0", "must be a whole number at least 1 and at most 1,000,000,000 or null, but 0"),
        (
            "train.compile=1",
            "must be true or false or one of reduce-overhead, max-autotune, but 1 was given",
        ),
        (
            "train.compile=yes",
            "must be true or false or one of reduce-overhead, max-autotune, but 'yes' was given",
        ),
        ("data.name=true", "data.name must be text, but true was given"),
        ("data.name=null", "data.name must be text, but null was given"),
        (
            "optim.schedule=cosin",
            "linear, one_cycle, step, range_test, but 'cosin' was given, did you mean 'cosine'?",
        ),
        ("train.precision=16", "must be one of auto, float32, float64, bf16, fp16, but 16 was given"),
        (
            "train.eval_every=often",
            "must be a duration such as '500 steps', '1 epoch', '0.5 epochs' or '10%', but 'often'",
        ),
        ("optim.warmup=0.5", "optim.warmup must be a duration"),
        ("model.freeze=layer1", "model.freeze must be a list, each item of which is text, but 'layer1' was given"),
        ("train.skip_steps=[1, x]", "train.skip_steps[1] must be a whole number at least 0, but 'x' was given"),
        ("train.skip_steps=[-1]", "train.skip_steps[0] must be a whole number at least 0, but -1 was given"),
        ("train.best_metric=acuracy", "ece, nll, brier, but 'acuracy' was given, did you mean 'accuracy'?"),
        ("optim.milestones=[50%, soon]", "optim.milestones[1] must be a duration such as '500 steps'"),
        ("model.args=3", "model.args must be a mapping, but 3 was given"),
        ("optim.groups=[{lr_scale: -1}]", "optim.groups[0].lr_scale must be a number at least 0, but -1 was given"),
        ("optim=sgd", "optim is a section with the settings name, lr, momentum"),
        ("augment=all", "cutmix, normalize, or 'none' to turn it off, but 'all' was given"),
    ],
)
def test_wrong_values_say_where_what_and_what_was_expected(override: str, expected: str) -> None:
    text = message(override)
    assert text.startswith(f"{override}: ")
    assert expected in text


def test_wrong_values_in_a_file_name_the_line(write_config) -> None:
    path = write_config("optim:\n  groups:\n    - match: head\n    - lr_scale: fast\n")
    assert message(path=path).startswith("x.yaml:4: optim.groups[1].lr_scale must be a number")
    assert message(path=write_config("train:\n\n  seed: -1\n")).startswith(
        "x.yaml:3: train.seed must be a whole number"
    )
