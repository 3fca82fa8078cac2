"""A mistake in a config must be named with its place and a way out; a right config must load as it was meant."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from distcls.config import AugmentConfig, Config, NormalizeConfig, ParamGroupConfig, TransformConfig
from distcls.config_loader import (
    differences,
    from_dict,
    load_config,
    read_config,
    settings_like,
    to_dict,
    to_yaml,
)
from distcls.errors import UsageError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write x.yaml into the current folder, so that errors say x.yaml:LINE."""
    monkeypatch.chdir(tmp_path)

    def write_yaml(text: str) -> Path:
        Path("x.yaml").write_text(text, encoding="utf-8")
        return Path("x.yaml")

    return write_yaml


def message(*overrides: str, path: Path | None = None) -> str:
    """What a user reads when this fails."""
    with pytest.raises(UsageError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Reading -------------------------------------------------------------------------------------------


def test_nothing_given_is_the_defaults() -> None:
    assert load_config(None, []) == Config()


def test_yaml_and_overrides_are_read(write) -> None:
    path = write(
        "optim:\n  lr: 1e-3\n  name: sgd\ntrain:\n  num_epochs: 5\n  log_every: 5\nmodel:\n  args: {width: 2}\n"
    )
    config = load_config(path, ["optim.name=adam", "model.args.dropout=0.2", "train.max_grad_norm=1"])
    assert (config.optim.lr, config.optim.name) == (1e-3, "adam")
    assert config.train.num_epochs == 5.0
    assert config.train.log_every == "5"
    assert config.train.max_grad_norm == 1.0
    assert config.model.args == {"width": 2, "dropout": 0.2}


def test_sections_may_be_empty_or_missing(write) -> None:
    assert load_config(write("optim:\ntrain: {}\nmodel:\n  args:\n"), []) == Config()
    assert load_config(write("# nothing yet\n"), []) == Config()


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "+1e-3", "1.0e-3"])
def test_numbers_with_exponents_are_numbers(text: str, write) -> None:
    assert load_config(None, [f"optim.lr={text}"]).optim.lr == 0.001
    assert load_config(write(f"optim: {{lr: {text}}}\n"), []).optim.lr == 0.001
    assert load_config(None, [f"model.args.p={text}"]).model.args == {"p": 0.001}


def test_whole_numbers_may_be_written_1e3() -> None:
    assert load_config(None, ["train.num_steps=1e3"]).train.num_steps == 1000
    assert load_config(None, ["train.num_steps=10_000"]).train.num_steps == 10_000


def test_text_that_yaml_would_take_for_something_else_stays_text() -> None:
    for name in ("007", "1e3", "2024-01-01", "12:30", "yes", "1.10"):
        assert load_config(None, [f"run.name={name}"]).run.name == name
    assert load_config(None, ["data.cache=0"]).data.cache == "0"


def test_lists_and_nested_settings() -> None:
    config = load_config(
        None,
        [
            "optim.groups=[{match: head, lr_scale: 10}]",
            "augment.normalize.mean=[0.5, 0.5, 1]",
            "model.freeze=[layer1, '2']",
            "train.skip_steps=[3, 1e1]",
        ],
    )
    assert config.optim.groups == [ParamGroupConfig("head", 10.0, None)]
    assert config.augment.normalize.mean == [0.5, 0.5, 1.0]
    assert config.model.freeze == ["layer1", "2"]
    assert config.train.skip_steps == [3, 10]


def test_the_last_override_wins_and_null_is_none() -> None:
    config = load_config(None, ["train.ema_decay=0.9", "train.ema_decay=null", "optim.lr=1", "optim.lr=2"])
    assert config.train.ema_decay is None
    assert config.optim.lr == 2.0


def test_unless_set_gives_way_to_the_file_and_to_overrides(write) -> None:
    assert load_config(None, [], ["data.name=folder"]).data.name == "folder"
    assert load_config(None, ["data.name=mnist"], ["data.name=folder"]).data.name == "mnist"
    assert load_config(write("data: {name: cifar10}\n"), [], ["data.name=folder"]).data.name == "cifar10"


def test_configs_share_no_lists() -> None:
    first, second = load_config(None, []), load_config(None, [])
    first.augment.normalize.mean.append(1.0)
    first.optim.betas.append(1.0)
    assert second == Config()


def test_augment_none_turns_off_everything_but_normalisation(write) -> None:
    off = {name: value for name, value in vars(AugmentConfig()).items() if name != "normalize"}
    assert not any(off.values()), "the defaults of AugmentConfig are what `augment: none` means"
    normalize = NormalizeConfig([0.5] * 3, [0.25] * 3)
    for none in ("none", "null", "'none'", ""):
        assert load_config(write(f"augment: {none}\n"), []).augment == AugmentConfig()
    path = write("augment: {flip: true, normalize: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}}\n")
    assert load_config(path, ["augment=none"]).augment == AugmentConfig(normalize=normalize)
    assert load_config(path, ["augment=none", "augment.mixup=0.2"]).augment.flip is False
    assert load_config(write("augment: none\n"), ["augment.flip=true"]).augment.flip is True


def test_flip_is_yes_no_or_alternating(write) -> None:
    for given, expected in (("true", True), ("false", False), ("alternating", "alternating")):
        assert load_config(None, [f"augment.flip={given}"]).augment.flip == expected
        config = load_config(write(f"augment: {{flip: {given}}}\n"), [])
        assert config.augment.flip == expected
        assert from_dict(to_dict(config)) == load_config(write(to_yaml(config)), []) == config
    assert "must be true or false or alternating, but 'alternate' was given, did you mean 'alternating'?" in message(
        "augment.flip=alternate"
    )
    assert "augment.flip must be true or false or alternating, but 1 was given" in message("augment.flip=1")


def test_transforms_are_a_list_of_names_with_arguments(write) -> None:
    path = write(
        "augment:\n  transforms:\n    - name: RandAugment\n      args: {num_ops: 1}\n    - name: RandomInvert\n"
    )
    expected = [TransformConfig("RandAugment", {"num_ops": 1}), TransformConfig("RandomInvert", {})]
    assert load_config(path, []).augment.transforms == expected
    assert load_config(path, ["augment=none"]).augment.transforms == []
    assert load_config(None, ["augment.transforms=[{name: RandomInvert}]"]).augment.transforms == expected[1:]
    assert "unknown setting augment.transforms[0].num_ops" in message("augment.transforms=[{name: A, num_ops: 1}]")


def test_class_weights_are_a_word_or_a_mapping_of_numbers(write) -> None:
    for given, expected in (("balanced", "balanced"), ("{cat: 2, '7': 1e-1}", {"cat": 2.0, "7": 0.1})):
        config = load_config(write(f"loss: {{class_weights: {given}}}\n"), [])
        assert config == load_config(None, [f"loss.class_weights={given}"])
        assert config.loss.class_weights == expected
        assert from_dict(to_dict(config)) == load_config(write(to_yaml(config)), []) == config
    assert load_config(None, ["loss.class_weights.cat=2"]).loss.class_weights == {"cat": 2.0}
    expected = "loss.class_weights must be one of none, balanced, effective or a mapping, but 'balance' was given, did"
    assert expected in message("loss.class_weights=balance")
    assert "loss.class_weights.cat must be a number, but 'much' was given" in message("loss.class_weights={cat: much}")


def test_home_is_expanded_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    config = load_config(
        None, ["data.name=folder", "data.root=~/images", "model.init_from=../runs/$X", "run.dir=~/run"]
    )
    assert config.data.root == "/home/ada/images"
    assert config.model.init_from == "../runs/$X"
    assert config.run.dir == "/home/ada/run"


# num_epochs and num_steps --------------------------------------------------------------------------


def test_num_steps_takes_the_place_of_the_default_num_epochs(write) -> None:
    assert load_config(None, ["train.num_steps=100"]).train.num_epochs is None
    assert load_config(write("train: {num_steps: 100}\n"), []).train.num_epochs is None


def test_an_override_replaces_the_other_length_of_the_file(write) -> None:
    train = load_config(write("train: {num_epochs: 5}\n"), ["train.num_steps=100"]).train
    assert (train.num_epochs, train.num_steps) == (None, 100)
    train = load_config(write("train: {num_steps: 100}\n"), ["train.num_epochs=5"]).train
    assert (train.num_epochs, train.num_steps) == (5.0, None)
    train = load_config(write("train: {num_epochs: 5}\n"), ["train.num_steps=null"]).train
    assert (train.num_epochs, train.num_steps) == (5.0, None)


def test_both_lengths_at_once_are_an_error(write) -> None:
    both = "train.num_steps=100 and train.num_epochs=5 are two lengths for one run: give one of them"
    assert message("train.num_epochs=5", "train.num_steps=100") == f"train.num_steps=100: {both}"
    assert message(path=write("train:\n  num_epochs: 5\n  num_steps: 100\n")) == f"x.yaml:3: {both}"
    assert "neither train.num_epochs nor train.num_steps is set" in message("train.num_epochs=null")


# Unknown settings ----------------------------------------------------------------------------------


def test_unknown_setting_names_the_place_and_the_nearest(write) -> None:
    path = write("# comment\noptim:\n  name: sgd\n  lrr: 1\n")
    assert message(path=path) == "x.yaml:4: unknown setting optim.lrr: did you mean 'lr'?"
    assert message("optim.lrr=1") == "optim.lrr=1: unknown setting optim.lrr: did you mean 'lr'?"


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=1", "'optim.lr'"),
        ("train.lr=1", "'optim.lr'"),
        ("name=x", "'data.name', 'model.name', 'loss.name', 'optim.name' or 'run.name'"),
        ("num_epoch=3", "'train.num_epochs'"),
        ("optm.lr=1", "'optim'"),
        ("optim.learning_rate=1", "'optim.lr'"),
        ("train.epochs=3", "'train.num_epochs'"),
        ("train.batch_size=32", "'train.global_batch_size'"),
        ("dropout=0.3", "'model.args.dropout'"),
        ("model.pretrained=true", "'model.init_from'"),
        ("augment.normalize.men=[1,1,1]", "'mean'"),
        ("optim.groups=[{mach: head}]", "'match'"),
    ],
)
def test_unknown_setting_suggests(override: str, meant: str) -> None:
    assert message(override).endswith(f"did you mean {meant}?")


def test_unknown_setting_lists_what_there_is() -> None:
    assert message("loss.xyzzy=1").endswith(
        "unknown setting loss.xyzzy: loss has name, label_smoothing, gamma, class_weights, beta"
    )
    assert "a config has data, augment, model, loss, optim, train, run" in message("xyzzy=1")


def test_settings_like_finds_settings_without_their_section() -> None:
    assert settings_like("optim.lr") == settings_like("lr") == ["optim.lr"]
    assert "train.global_batch_size" in settings_like("batch_size")
    assert settings_like("xyzzy") == []


# Values that do not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr=fast", "optim.lr must be a number above 0, but 'fast' was given (Peak learning rate.)"),
        ("optim.lr='1'", "optim.lr must be a number above 0, but '1' was given"),
        ("optim.lr=0", "optim.lr must be a number above 0, but 0 was given"),
        ("optim.lr=.inf", "optim.lr must be a number above 0, but .inf was given"),
        ("optim.lr=null", "optim.lr must be a number above 0, but null was given"),
        ("optim.lr=", "optim.lr must be a number above 0, but null was given"),
        ("optim.lr=true", "optim.lr must be a number above 0, but true was given"),
        ("optim.lr=[1]", "optim.lr must be a number above 0, but [1] was given"),
        ("optim.lr.x=1", 'optim.lr must be a number above 0, but {"x": 1} was given'),
        ("optim.momentum=1", "must be a number at least 0 and below 1, but 1 was given"),
        ("data.max_bad_fraction=2", "must be a number at least 0 and at most 1, but 2 was given"),
        ("train.seed=1.0", "train.seed must be a whole number at least 0"),
        ("train.seed=1.5e0", "train.seed must be a whole number at least 0"),
        ("train.seed=true", "train.seed must be a whole number at least 0"),
        ("train.micro_batch_size=0", "must be a whole number at least 1 or null, but 0 was given"),
        ("train.compile=1", "train.compile must be true or false, but 1 was given"),
        ("train.compile=yes", "train.compile must be true or false, but 'yes' was given"),
        ("data.name=true", "data.name must be text, but true was given"),
        ("data.name=null", "data.name must be text, but null was given"),
        (
            "optim.schedule=cosin",
            "one of constant, cosine, one_cycle, step, but 'cosin' was given, did you mean 'cosine'?",
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
        ("train.best_metric=acuracy", "macro_recall, loss, ece, but 'acuracy' was given, did you mean 'accuracy'?"),
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


def test_contradictions_name_the_line_of_the_file(write) -> None:
    path = write("optim:\n  lr: 1\n  nesterov: true\n")
    assert message(path=path).startswith("x.yaml:3: optim.nesterov is for optim.name=sgd")


def test_wrong_values_in_a_file_name_the_line(write) -> None:
    path = write("optim:\n  groups:\n    - match: head\n    - lr_scale: fast\n")
    assert message(path=path).startswith("x.yaml:4: optim.groups[1].lr_scale must be a number")
    assert message(path=write("train:\n\n  seed: -1\n")).startswith("x.yaml:3: train.seed must be a whole number")


@pytest.mark.parametrize("override", ["lr", "=1", "optim.=1", ".lr=1", "optim..lr=1"])
def test_malformed_overrides(override: str) -> None:
    assert message(override) == f"{override}: a setting is written key=value, such as optim.lr=0.001"


@pytest.mark.parametrize(
    "override", ["run.name=@home", "model.freeze=[a", "run.name=*x", "run.name=!tag x", "optim.lr=!!int x"]
)
def test_overrides_that_are_not_yaml(override: str) -> None:
    assert message(override).startswith(f"{override}: ")


# Files ---------------------------------------------------------------------------------------------


def test_duplicate_keys(write) -> None:
    path = write("optim:\n  lr: 1\n  name: sgd\n  lr: 2\n")
    assert message(path=path) == "x.yaml:4: 'lr' is given twice, first at x.yaml:2: remove one of them"
    assert message("optim.groups=[{match: a, match: b}]").endswith("'match' is given twice: remove one of them")


def test_files_that_are_no_config(write) -> None:
    assert re.match(r"x\.yaml:2: not valid YAML: ", message(path=write("optim:\n\tlr: 1\n")))
    assert message(path=write("- 1\n- 2\n")).startswith("x.yaml:1: a config is a mapping with sections")
    assert message(path=write("optim: {}\n---\ntrain: {}\n")).startswith("x.yaml:2: not valid YAML: ")
    Path("x.yaml").write_bytes(b"run: {name: \xff}\n")
    assert "UTF-8" in message(path=Path("x.yaml"))
    assert message(path=Path("y.yaml")).startswith("y.yaml: cannot read the config (No such file or directory)")
    assert message(path=Path("y.yaml")).endswith("did you mean x.yaml?")


@pytest.mark.parametrize("text", ["four", "0", "-1"])
def test_world_size_must_be_a_number_of_processes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", text)
    assert message() == f"the environment variable WORLD_SIZE must be a number of processes, but is {text!r}"


def test_a_saved_config_is_read_on_any_number_of_processes(monkeypatch: pytest.MonkeyPatch, write) -> None:
    saved = load_config(None, ["train.micro_batch_size=32"])
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert from_dict(to_dict(saved)) == saved
    path = write(to_yaml(saved))
    assert read_config(path) == saved
    assert read_config(path, ["data.workers=5"]).data.workers == 5
    with pytest.raises(UsageError, match="3 processes"):
        load_config(path)


# Saving and comparing ------------------------------------------------------------------------------

EVERYTHING = [
    "data.name=folder",
    'data.root="/images/été: 1 #2"',
    "model.args={dropout: 0.2, text: '1e-3', tiny: 1e-30, flag: 'no', deep: [{a: null}]}",
    "optim.groups=[{match: '^head\\.', lr_scale: 10, weight_decay: 0}]",
    "optim.schedule=step",
    "optim.milestones=['50%', 100]",
    "train.num_steps=1000",
    "run.name='null'",
    "optim.lr=1e-5",
]


def test_saving_loses_nothing(write) -> None:
    config = load_config(None, EVERYTHING)
    assert load_config(write(to_yaml(config)), []) == config
    assert from_dict(to_dict(config)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_other_yaml_readers_read_the_same() -> None:
    config = load_config(None, EVERYTHING)
    assert yaml.safe_load(to_yaml(config)) == to_dict(config)


def test_yaml_is_a_block_for_each_section_and_a_line_for_each_setting() -> None:
    lines = to_yaml(Config()).splitlines()
    assert "optim:" in lines and "  lr: 0.002" in lines and "  betas: [0.9, 0.999]" in lines
    assert "" in lines and "    mean: [0.485, 0.456, 0.406]" in lines


def test_from_dict_names_its_source() -> None:
    with pytest.raises(UsageError, match=r"runs/a/config\.yaml: unknown setting optim.lrr"):
        from_dict({"optim": {"lrr": 1}}, "runs/a/config.yaml")


def test_differences_are_those_that_change_the_run() -> None:
    old = load_config(None, ["optim.lr=1e-3"])
    new = load_config(
        None,
        [
            "optim.lr=2e-3",
            "train.deterministic=true",
            "augment.normalize.std=[1, 1, 1]",
            "optim.groups=[{match: head}]",
            "model.name=cnn3",
            "train.ema_decay=0.9",
            *(
                "train.log_every=1",
                "data.workers=7",
                "run.name=other",
                "train.eval_every=1.0 epochs",
                "data.cache_dir=d",
            ),
        ],
    )
    assert differences(old, new) == [
        "augment.normalize.std: [0.229, 0.224, 0.225] -> [1.0, 1.0, 1.0]",
        "model.name: cnn2 -> cnn3",
        "optim.lr: 0.001 -> 0.002",
        'optim.groups: [] -> [{"match": "head", "lr_scale": 1.0, "weight_decay": null}]',
        "train.deterministic: false -> true",
        "train.ema_decay: null -> 0.9",
    ]
    assert differences(old, old) == []


def test_a_section_that_is_switched_on_is_a_difference() -> None:
    old, new = load_config(None), load_config(None, ["augment.random_resized_crop.scale=[0.2, 1]"])
    shown = "augment.random_resized_crop: {} -> {}"
    on = '{"scale": [0.2, 1.0], "ratio": [0.75, 1.3333333333333333]}'
    assert differences(old, new) == [shown.format("null", on)]
    assert differences(new, old) == [shown.format(on, "null")]
    assert load_config(None, ["augment.random_resized_crop={}", "augment=none"]).augment.random_resized_crop is None


def test_durations_are_compared_by_what_they_mean() -> None:
    old, new, other = (
        load_config(None, ["optim.schedule=step", f"optim.milestones={milestones}", f"train.eval_every={every}"])
        for milestones, every in (("[5, 50%]", "5"), ("[5 steps, 50.0 %]", "5 steps"), ("[5 epochs, 50%]", "5"))
    )
    assert differences(old, new) == []
    assert differences(old, other) == ['optim.milestones: ["5", "50%"] -> ["5 epochs", "50%"]']


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_of_the_repository_loads(path: Path) -> None:
    load_config(path, [])
    first_line = path.read_text(encoding="utf-8").splitlines()[0]
    assert first_line == "# yaml-language-server: $schema=schema.json"
