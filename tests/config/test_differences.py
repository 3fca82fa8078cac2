"""A run goes on only with the settings that made it; which those are, and how a difference is told."""

from __future__ import annotations

from distcls.config.differences import differences, recipe, settings_that_differ
from distcls.config.loading import load_config
from distcls.config.settings import Config


def lines(old: Config, new: Config) -> list[str]:
    return [str(difference) for difference in differences(old, new)]


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
    assert lines(old, new) == [
        "augment.normalize.std: [0.229, 0.224, 0.225] -> [1.0, 1.0, 1.0]",
        "model.name: cnn2 -> cnn3",
        "optim.lr: 0.001 -> 0.002",
        'optim.groups: [] -> [{"match": "head", "lr_scale": 1.0, "weight_decay": null, "name": null, "args": null, '
        '"lr": null, "momentum": null, "nesterov": null, "normalize_weights": null, "betas": null, "eps": null, '
        '"schedule": null, "warmup": null, '
        '"min_lr": null, "milestones": null, "gamma": null}]',
        "train.deterministic: false -> true",
        "train.ema_decay: null -> 0.9",
    ]
    assert differences(old, old) == []


def test_a_section_that_is_switched_on_is_a_difference() -> None:
    old, new = load_config(None), load_config(None, ["augment.random_resized_crop.scale=[0.2, 1]"])
    shown = "augment.random_resized_crop: {} -> {}"
    on = '{"scale": [0.2, 1.0], "ratio": [0.75, 1.3333333333333333]}'
    assert lines(old, new) == [shown.format("null", on)]
    assert lines(new, old) == [shown.format(on, "null")]
    assert load_config(None, ["augment.random_resized_crop={}", "augment=none"]).augment.random_resized_crop is None


def test_durations_are_compared_by_what_they_mean() -> None:
    old, new, other = (
        load_config(None, ["optim.schedule=step", f"optim.milestones={milestones}", f"train.eval_every={every}"])
        for milestones, every in (("[5, 50%]", "5"), ("[5 steps, 50.0 %]", "5 steps"), ("[5 epochs, 50%]", "5"))
    )
    assert differences(old, new) == []
    assert lines(old, other) == ['optim.milestones: ["5", "50%"] -> ["5 epochs", "50%"]']


def test_durations_of_parts_are_compared_by_what_they_mean() -> None:
    old, new, other = (
        load_config(None, [f"model.freeze_until={{layer1: {layer1}, layer2: 1 epoch}}"])
        for layer1 in ("5", "5 steps", "6 steps")
    )
    assert lines(old, new) == []
    assert lines(old, other) == [
        'model.freeze_until: {"layer1": "5", "layer2": "1 epoch"} -> {"layer1": "6 steps", "layer2": "1 epoch"}'
    ]
    assert lines(load_config(None), old)[0].startswith('model.freeze_until: 0 steps -> {"layer1"')


def test_settings_that_differ_among_many() -> None:
    crop = "augment.random_resized_crop.scale"
    configs = [
        load_config(None, words)
        for words in (["train.seed=1"], [f"{crop}=[0.2, 1]", "data.workers=7"], [f"{crop}=[0.3, 1]", "optim.lr=1"])
    ]
    found = settings_that_differ(configs, everything=True)
    assert list(found) == ["data.workers", "augment.random_resized_crop", "optim.lr", "train.seed"], "as in a config"
    assert found["optim.lr"] == [0.002, 0.002, 1.0] and found["train.seed"] == [1, 0, 0]
    assert [value and value["scale"] for value in found["augment.random_resized_crop"]] == [None, [0.2, 1], [0.3, 1]]
    assert list(settings_that_differ(configs[1:])) == [crop, "optim.lr"], "what the first config has is compared"
    assert settings_that_differ(configs[:1]) == {}


def test_repetitions_share_a_recipe() -> None:
    one, again, other = (
        recipe(load_config(None, words), without=["train.seed"])
        for words in (
            ["train.seed=1", "optim.warmup=5"],
            ["train.seed=2", "optim.warmup=5 steps", "data.workers=7", "run.name=x"],
            ["train.seed=2", "optim.warmup=6"],
        )
    )
    assert one == again != other
