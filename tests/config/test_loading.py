"""A mistake in a config must be named with its place and a way out; a right config must load as it was meant."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from mistakes import message

from distcls.config.loading import load_config, read_config
from distcls.config.settings import (
    AugmentConfig,
    Config,
    LookaheadConfig,
    NormalizeConfig,
    ParamGroupConfig,
    TransformConfig,
)
from distcls.config.yaml_text import to_yaml
from distcls.errors import UsageError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_nothing_given_is_the_defaults() -> None:
    assert load_config(None, []) == Config(preset="auto")


def test_yaml_and_overrides_are_read(write_config) -> None:
    path = write_config(
        "optim:\n  lr: 1e-3\n  name: sgd\ntrain:\n  num_epochs: 5\n  log_every: 5\nmodel:\n  args: {width: 2}\n"
    )
    config = load_config(path, ["optim.name=adam", "model.args.dropout=0.2", "train.max_grad_norm=1"])
    assert (config.optim.lr, config.optim.name) == (1e-3, "adam")
    assert config.train.num_epochs == 5.0
    assert config.train.log_every == "5"
    assert config.train.max_grad_norm == 1.0
    assert config.model.args == {"width": 2, "dropout": 0.2}


def test_sections_may_be_empty_or_missing(write_config) -> None:
    assert load_config(write_config("optim:\ntrain: {}\nmodel:\n  args:\n"), []) == Config()
    assert load_config(write_config("# nothing yet\n"), []) == Config()


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


def test_unless_set_gives_way_to_the_file_and_to_overrides(write_config) -> None:
    assert load_config(None, [], ["data.name=folder"]).data.name == "folder"
    assert load_config(None, ["data.name=mnist"], ["data.name=folder"]).data.name == "mnist"
    assert load_config(write_config("data: {name: cifar10}\n"), [], ["data.name=folder"]).data.name == "cifar10"


def test_configs_share_no_lists() -> None:
    first, second = load_config(None, []), load_config(None, [])
    first.augment.normalize.mean.append(1.0)
    first.optim.betas.append(1.0)
    assert second == Config(preset="auto")


def test_augment_none_turns_off_everything_but_normalization(write_config) -> None:
    off = {name: value for name, value in vars(AugmentConfig()).items() if name != "normalize"}
    assert not any(off.values()), "the defaults of AugmentConfig are what `augment: none` means"
    normalize = NormalizeConfig([0.5] * 3, [0.25] * 3)
    for none in ("none", "null", "'none'", ""):
        assert load_config(write_config(f"augment: {none}\n"), []).augment == AugmentConfig()
    path = write_config("augment: {flip: true, normalize: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}}\n")
    assert load_config(path, ["augment=none"]).augment == AugmentConfig(normalize=normalize)
    assert load_config(path, ["augment=none", "augment.mixup=0.2"]).augment.flip is False
    assert load_config(write_config("augment: none\n"), ["augment.flip=true"]).augment.flip is True


def test_flip_is_yes_no_or_alternating(write_config) -> None:
    for given, expected in (("true", True), ("false", False), ("alternating", "alternating")):
        assert load_config(None, [f"augment.flip={given}"]).augment.flip == expected
        config = load_config(write_config(f"augment: {{flip: {given}}}\n"), [])
        assert config.augment.flip == expected
        assert load_config(write_config(to_yaml(config)), []) == config
    assert "must be true or false or alternating, but 'alternate' was given, did you mean 'alternating'?" in message(
        "augment.flip=alternate"
    )
    assert "augment.flip must be true or false or alternating, but 1 was given" in message("augment.flip=1")


def test_transforms_are_a_list_of_names_with_arguments(write_config) -> None:
    path = write_config(
        "augment:\n  transforms:\n    - name: RandAugment\n      args: {num_ops: 1}\n    - name: RandomInvert\n"
    )
    expected = [TransformConfig("RandAugment", {"num_ops": 1}), TransformConfig("RandomInvert", {})]
    assert load_config(path, []).augment.transforms == expected
    assert load_config(path, ["augment=none"]).augment.transforms == []
    assert load_config(None, ["augment.transforms=[{name: RandomInvert}]"]).augment.transforms == expected[1:]
    assert "unknown setting augment.transforms[0].num_ops" in message("augment.transforms=[{name: A, num_ops: 1}]")


def test_class_weights_are_a_word_or_a_mapping_of_numbers(write_config) -> None:
    for given, expected in (("balanced", "balanced"), ("{cat: 2, '7': 1e-1}", {"cat": 2.0, "7": 0.1})):
        config = load_config(write_config(f"loss: {{class_weights: {given}}}\n"), [])
        assert config == load_config(None, [f"loss.class_weights={given}", "preset=none"])
        assert config.loss.class_weights == expected
        assert load_config(write_config(to_yaml(config)), []) == config
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


@pytest.mark.parametrize("given", ["optim={lr: 0.05}", 'optim={"lr": 0.05}', "optim.lr=0.05"])
def test_a_section_given_in_part_keeps_the_rest_of_the_file(write_config, given: str) -> None:
    optim = load_config(write_config("optim: {name: sgd, lr: 0.1, weight_decay: 5.0e-4}\n"), [given]).optim
    assert (optim.name, optim.lr, optim.weight_decay) == ("sgd", 0.05, 5e-4)


def test_sections_in_an_override_may_be_nested_and_count_as_their_settings(write_config) -> None:
    path = write_config(
        "augment: {mixup: 0.2, normalize: {mean: [0.5, 0.5, 0.5]}}\ntrain: {num_epochs: 5, seed: 3}\n"
        "model: {args: {width: 2}}\noptim: {lookahead: {every: 9, decay: 0.1}}\n"
    )
    changes = ["augment={flip: true, normalize: {std: [1, 1, 1]}}", "train={num_steps: 7}"]
    changed = load_config(path, [*changes, "model={args: {depth: 3}}", "optim={lookahead: {every: 2}}"])
    assert (changed.augment.mixup, changed.augment.flip) == (0.2, True)
    assert changed.augment.normalize == NormalizeConfig([0.5] * 3, [1.0] * 3)
    assert (changed.train.num_steps, changed.train.num_epochs, changed.train.seed) == (7, None, 3)
    assert changed.model.args == {"depth": 3}, "what is no section is replaced as a whole"
    assert changed.optim.lookahead == LookaheadConfig(every=2), "and so is a section that may be off"
    assert message("optim={lrr: 1}", path=path).endswith("unknown setting optim.lrr: did you mean 'optim.lr'?")


def test_a_typed_name_replaces_the_folder_of_the_file(write_config) -> None:
    """The config.yaml of a run that was given a folder holds it."""
    path = write_config("run: {name: a, dir: exp/a-fold0}\n")
    for given, name, folder in (
        ([], "a", "exp/a-fold0"),
        (["run.name=again"], "again", None),
        (["run={name: again}"], "again", None),
        (["run.name=again", "run.dir=b"], "again", "b"),
    ):
        run = load_config(path, given).run
        assert (run.name, run.dir) == (name, folder)


def test_num_steps_takes_the_place_of_the_default_num_epochs(write_config) -> None:
    assert load_config(None, ["train.num_steps=100"]).train.num_epochs is None
    assert load_config(write_config("train: {num_steps: 100}\n"), []).train.num_epochs is None


def test_an_override_replaces_the_other_length_of_the_file(write_config) -> None:
    train = load_config(write_config("train: {num_epochs: 5}\n"), ["train.num_steps=100"]).train
    assert (train.num_epochs, train.num_steps) == (None, 100)
    train = load_config(write_config("train: {num_steps: 100}\n"), ["train.num_epochs=5"]).train
    assert (train.num_epochs, train.num_steps) == (5.0, None)
    train = load_config(write_config("train: {num_epochs: 5}\n"), ["train.num_steps=null"]).train
    assert (train.num_epochs, train.num_steps) == (5.0, None)


def test_both_lengths_at_once_are_an_error(write_config) -> None:
    both = "train.num_steps=100 and train.num_epochs=5 both set the length of the run: give only one of them"
    assert message("train.num_epochs=5", "train.num_steps=100") == both
    assert message(path=write_config("train:\n  num_epochs: 5\n  num_steps: 100\n")) == f"x.yaml:3: {both}"
    assert "neither train.num_epochs nor train.num_steps is set" in message("train.num_epochs=null")


def test_contradictions_name_the_line_of_the_file(write_config) -> None:
    path = write_config("optim:\n  lr: 1\n  nesterov: true\n")
    assert message(path=path).startswith(
        "x.yaml:3: optim.nesterov=true has no effect: it applies only to optim.name=sgd"
    )


@pytest.mark.parametrize("text", ["four", "0", "-1"])
def test_world_size_must_be_a_number_of_processes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", text)
    assert message() == f"the environment variable WORLD_SIZE must be a number of processes, but is {text!r}"


def test_a_saved_config_is_read_on_any_number_of_processes(monkeypatch: pytest.MonkeyPatch, write_config) -> None:
    saved = load_config(None, ["train.micro_batch_size=32"])
    monkeypatch.setenv("WORLD_SIZE", "3")
    path = write_config(to_yaml(saved))
    assert read_config(path) == saved
    assert read_config(path, ["data.workers=5"]).data.workers == 5
    with pytest.raises(UsageError, match="3 processes"):
        load_config(path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_of_the_repository_loads(path: Path) -> None:
    load_config(path, [])
    first_line = path.read_text(encoding="utf-8").splitlines()[0]
    assert first_line == "# yaml-language-server: $schema=schema.json"


def test_a_saved_config_is_not_judged_by_rules_that_came_later(write_config) -> None:
    path = write_config("train: {sampling: balanced}\nloss: {class_weights: balanced}\n")
    assert "rare classes twice" in message(path=path)
    assert read_config(path).loss.class_weights == "balanced"
    data = read_config(write_config("data: {name: folder, root: '', cache: 8}\n")).data
    assert (data.root, data.cache) == ("", "8")
    with pytest.raises(UsageError, match=r"^data.fold=9 needs the number of folds"):
        read_config(path, ["data.fold=9"])


def test_all_mistakes_are_reported_at_once(write_config) -> None:
    path = write_config("optim:\n  lrr: 1\n  betas: [x, 2, y]\ndata:\n  workers: -1\nloss: {gamma: 1}\nmodle: {}\n")
    lines = message("train.seed=a", "nonsense", "augment.transforms=[{nam: A}, {args: 1}]", path=path).splitlines()
    assert lines[0] == "the config has 10 mistakes:"
    expected = [
        "  nonsense: write settings as key=value",
        "  x.yaml:7: unknown setting modle: did you mean 'model'?",
        "  x.yaml:5: data.workers must be a whole number",
        "  augment.transforms=[{nam: A}, {args: 1}]: unknown setting augment.transforms[0].nam",
        "  augment.transforms=[{nam: A}, {args: 1}]: augment.transforms[1].args must be a mapping",
        "  x.yaml:2: unknown setting optim.lrr: did you mean 'optim.lr'?",
        "  x.yaml:3: optim.betas[0] must be a number",
        "  x.yaml:3: optim.betas[2] must be a number",
        "  train.seed=a: train.seed must be a whole number",
        "  x.yaml:6: loss.gamma=1.0 has no effect",
    ]
    assert len(lines) == 11
    for line, start in zip(lines[1:], expected, strict=True):
        assert line.startswith(start)


def test_what_is_no_section_is_reported_whatever_else_is_set_in_it(write_config) -> None:
    assert message("data.root=x", path=write_config("data: [x]\n")).startswith("x.yaml:1: data is a section with")
    assert message("optim.lr=1", path=write_config("optim: sgd\n")).startswith("x.yaml:1: optim is a section with")


def test_an_empty_setting_counts_as_not_set(write_config) -> None:
    assert load_config(write_config("data: {name: null}\n"), [], ["data.name=folder"]).data.name == "folder"


def test_a_config_cannot_be_changed_once_it_is_read() -> None:
    config = load_config(None, [])
    with pytest.raises(FrozenInstanceError):
        config.optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "override",
    [
        *("train.num_epochs=1e300", "train.num_steps=1e300", "run.hang_timeout=1e300", "augment.pad_crop=1e19"),
        *("train.num_threads=100000", "data.image_size=1e19", "data.workers=1e9", "train.global_batch_size=1e19"),
        *("train.eval_batch_size=1e19", "data.folds=1e9", "data.decode_size=1e19", "train.micro_batch_size=1e19"),
    ],
)
def test_absurd_numbers_are_out_of_range(override: str) -> None:
    assert "at most" in message(override)


@pytest.mark.parametrize(
    ("given", "scale", "ratio"),
    [
        ([], [0.35, 1.0], [3 / 4, 4 / 3]),
        (["augment.random_resized_crop.ratio=[0.9, 1.1]"], [0.35, 1.0], [0.9, 1.1]),
        (["augment.random_resized_crop={scale: [0.5, 1]}"], [0.5, 1.0], [3 / 4, 4 / 3]),
        (["augment.random_resized_crop={}"], [0.08, 1.0], [3 / 4, 4 / 3]),
    ],
)
def test_what_is_given_of_a_section_replaces_only_that_of_the_preset(given, scale, ratio):
    crop = load_config(None, ["preset=balanced", *given]).augment.random_resized_crop
    assert crop is not None and (crop.scale, crop.ratio) == (scale, ratio)


def test_augmentation_that_a_file_turns_off_stays_off_whatever_else_is_set(write_config):
    path = write_config("preset: balanced\naugment: none\n")
    augment = load_config(path, ["augment.normalize.mean=[0.5, 0.5, 0.5]"]).augment
    assert not augment.flip and augment.random_resized_crop is None and augment.normalize.mean == [0.5] * 3


@pytest.mark.parametrize(
    ("written", "given", "is_off"),
    [
        ("", [], False),
        ("# flip: true", [], False),
        ("", ["augment.mixup=0.5"], False),
        *((off, [], True) for off in ("none", "null", "~")),
        *((off, ["augment.mixup=0.5"], True) for off in ("none", "null", "~")),
    ],
)
def test_augment_with_nothing_under_it_keeps_the_augmentation_of_the_preset(write_config, written, given, is_off):
    augment = load_config(write_config(f"preset: balanced\naugment: {written}\n"), given).augment
    assert (augment.random_resized_crop is None) == is_off
    assert augment.mixup == 0.5 or not given


def test_a_section_that_is_turned_off_stays_off_with_a_preset():
    assert (
        load_config(None, ["preset=balanced", "augment.random_resized_crop=null"]).augment.random_resized_crop is None
    )
