"""Settings that contradict each other are refused before anything is computed, with a way out that works."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from distcls.config.batch_sizes import wrong_batches
from distcls.config.loading import load_config
from distcls.config.settings import Config, TrainConfig
from distcls.errors import UsageError
from distcls.plan.batches import plan_batches


def load(world_size: int, overrides: Sequence[str]) -> Config:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WORLD_SIZE", str(world_size))
        return load_config(None, overrides)


def message(world_size: int, overrides: Sequence[str]) -> str:
    """What a user reads when this fails on so many processes."""
    with pytest.raises(UsageError) as caught:
        load(world_size, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["train.global_batch_size=64", "train.micro_batch_size=24"],
            "train.global_batch_size=64 cannot be cut into micro-batches of train.micro_batch_size=24: "
            "try train.micro_batch_size=16 or 32; train.global_batch_size=48 or 72",
        ),
        (["train.deterministic=true", "train.sync_batchnorm=true"], "which train.deterministic rules out"),
        (["optim.schedule=step"], "needs milestones, such as optim.milestones=['50%', '75%']"),
        (
            ["optim.milestones=['50%']"],
            "has no effect: it applies only to optim.schedule=step, but optim.schedule is cosine",
        ),
        (
            ["optim.nesterov=true"],
            "optim.nesterov=true has no effect: it applies only to optim.name=sgd or muon, but optim.name is adamw",
        ),
        (["optim.nesterov=true", "optim.name=sgd", "optim.momentum=0"], "needs optim.momentum above 0"),
        (["optim.betas=[0.9]"], "optim.betas must be two numbers"),
        (["model.init_from=runs/a", "model.weights=b.pth"], "both name initial weights: leave out one of them"),
        (["augment.mixup=0.2", "train.micro_batch_size=1"], "a micro-batch is one image here"),
        (["augment.cutmix=1", "train.micro_batch_size=1"], "or set augment.cutmix=0"),
        (["loss.class_weights=balanced", "loss.name=my.own:loss"], "but loss.name is my.own:loss. Change one of them"),
        (["loss.class_weights=effective", "train.sampling=balanced"], "compensate for rare classes twice"),
        (["loss.class_weights={cat: 1, dog: 0}"], "loss.class_weights.dog must be above 0, but 0 was given"),
        (["augment.normalize.mean=[0.5]"], "augment.normalize.mean must be 3 numbers (red, green, blue), but [0.5]"),
        (["augment.normalize.std=[1, 1, 0]"], "augment.normalize.std must be above 0"),
        (["data.args={size: 8}"], "data.args is for data.name=synthetic and for your own factories"),
        (["data.root=photos"], "data.root=photos is not used by data.name=digits: add data.name=folder"),
        (["data.folds=5"], "add data.fold=0 (up to 4) for one of them, or run all of them: distcls crossval"),
        (["data.fold=1"], "add data.folds, such as data.folds=5"),
        (["data.folds=5", "data.fold=5"], "data.fold=5 must be from 0 to 4"),
        (
            ["data.groups=(a)_"],
            "by the paths of images or in a CSV file, but data.name=digits has neither: leave it out",
        ),
        (
            ["data.groups=patient", "data.name=folder", "data.root=a"],
            "data.groups=patient captures nothing, because it has no parentheses",
        ),
        (["data.groups=(a", "data.name=csv", "data.root=a"], "is not a regular expression (missing ), unterminated"),
        (["data.groups=(?:a)", "data.name=imagenet", "data.root=a"], r"such as data.groups='(patient\d+)_'"),
        (["data.background=snowhite"], "data.background=snowhite is not a color: give a CSS color name"),
        (["data.background='#ff000080'"], 'such as black, or "#rrggbb" in quotes'),
        (["data.float_range=[1]"], "data.float_range must be two different numbers, for black and white, but [1.0]"),
        (["data.float_range=[1, 1]"], "must be two different numbers"),
        (
            ["model.freeze_until={layer1: 0 epochs}"],
            "model.freeze_until.layer1=0 epochs freezes nothing: give a duration longer than zero",
        ),
        (
            ["model.head_only=true", "model.freeze_until=1 epoch"],
            "model.freeze_until=1 epoch has no effect with model.head_only=true, which trains nothing but the head",
        ),
        (["model.head_only=true", "optim.layer_decay=0.5"], "optim.layer_decay=0.5 has no effect with model.head_only"),
        (
            ["model.head_only=true", "train.checkpoint_activations=true"],
            "train.checkpoint_activations=true has no effect with model.head_only=true",
        ),
        (["train.eval_every=0"], "train.eval_every must be longer than zero"),
        (
            ["optim.schedule=range_test"],
            "goes from optim.min_lr=0 to optim.lr=0.002: give a min_lr above 0 and below lr",
        ),
        (["optim.lookahead={decay: 1}"], "would never move the slow weights"),
        (["train.deterministic=true", "train.compile=max-autotune"], "so two starts may round differently"),
        (
            ["objective.name=proxy_selection", "objective.args={model: cnn2}", "model.head_only=true"],
            "objective.name=proxy_selection has no use with model.head_only=true",
        ),
        (["optim.lr=0.1", "optim.min_lr=1"], "is above optim.lr=0.1, its peak: make it smaller"),
        (
            ["optim.schedule=constant", "optim.min_lr=1e-4"],
            "has no effect: it applies only to optim.schedule=cosine, linear, one_cycle or range_test",
        ),
        (
            ["loss.label_smoothing=0.1", "loss.name=my.own:loss"],
            "or leave loss.label_smoothing at 0.0, or do it in your own code",
        ),
        (["augment.random_resized_crop={scale: [1, 0.5]}"], "scale must be two numbers, the smaller first"),
        (["augment.random_resized_crop.ratio=[1]"], "augment.random_resized_crop.ratio must be two numbers"),
        (
            ["optim.momentum=0.5"],
            "optim.momentum=0.5 has no effect: it applies only to optim.name=sgd or muon, but optim.name is adamw",
        ),
        (
            ["optim.name=sgd", "optim.betas=[0.8, 0.9]"],
            "optim.betas=[0.8, 0.9] has no effect: it applies only to optim.name=adam",
        ),
        (["optim.name=sgd", "optim.eps=1e-6"], "it applies only to optim.name=adam or adamw, but optim.name is sgd"),
        (
            ["optim.gamma=0.5"],
            "it applies only to optim.schedule=step, but optim.schedule is cosine. Change one of them, or leave",
        ),
        (
            ["loss.gamma=1"],
            "loss.gamma=1.0 has no effect: it applies only to loss.name=focal, but loss.name is cross_entropy",
        ),
        (["loss.beta=0.9"], "loss.beta=0.9 has no effect: it applies only to loss.class_weights=effective, but"),
        (["loss.beta=0.9", "loss.class_weights={'1': 2}"], 'but loss.class_weights is {"1": 2.0}. Change one of them'),
        (
            ["data.decode_size=64"],
            "data.decode_size=64 has no effect: it applies only to augment.random_resized_crop, which is off",
        ),
        (["data.cache=4GBB"], 'data.cache=\'4GBB\' is not a size: write it as "4 GB", "500 MB" or 0'),
        (["data.disk_cache=much"], "data.disk_cache='much' is not a size"),
        (
            ["data.cache=8"],
            "data.cache=8 has no unit, so it would be 8 bytes: write '8 GB', '8 MB' or 0",
        ),
        (["data.disk_cache=999999"], "data.disk_cache=999999 has no unit, so it would be 999,999 bytes"),
        (["data.name=folder", "data.root=''"], "data.root is empty: give the folder or file of your images"),
        (["run.name=''"], "run.name='' cannot be the name of a folder"),
        (["run.name=.."], "run.name='..' cannot be the name of a folder"),
        ([f"run.name={'n' * 300}"], "run.name has a name of 300 bytes, but only 200 are allowed"),
        ([f"run.dir=a/{'ü' * 150}/b"], "run.dir has a name of 300 bytes"),
        (["run.dir=''"], "run.dir is empty: give a folder, or leave it out"),
        (
            ["augment.random_resized_crop={}", "data.image_size=224", "data.decode_size=192"],
            "data.decode_size=192 is smaller than data.image_size=224",
        ),
    ],
)
def test_contradictions(overrides: list[str], expected: str) -> None:
    assert expected in message(1, overrides)


@pytest.mark.parametrize(
    ("world_size", "overrides", "expected"),
    [
        (
            3,
            [],
            "train.global_batch_size=64 cannot be cut into equal parts for 3 processes (WORLD_SIZE): "
            "try train.global_batch_size=63 or 66; 2 or 4 processes",
        ),
        (
            4,
            ["train.micro_batch_size=32"],
            "micro-batches of train.micro_batch_size=32 for 4 processes (WORLD_SIZE): "
            "try train.micro_batch_size=16; train.global_batch_size=128; 2 processes",
        ),
        (
            3,
            ["train.global_batch_size=72", "train.deterministic=true"],
            "WORLD_SIZE is 3: start 1, 2 or 4, or set",
        ),
        (64, ["augment.mixup=0.2"], "a micro-batch is one image here"),
    ],
)
def test_contradictions_with_the_number_of_processes(world_size: int, overrides: list[str], expected: str) -> None:
    assert expected in message(world_size, overrides)


def test_defaults_may_be_written_where_they_do_nothing() -> None:
    load(1, ["optim.momentum=0.9", "optim.gamma=0.1", "loss.gamma=2", "data.decode_size=null", "optim.nesterov=false"])


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.name=sgd", "optim.momentum=0.5"],
        ["optim.name=adam", "optim.betas=[0.8, 0.9]", "optim.eps=1e-6"],
        ["optim.schedule=step", "optim.milestones=['50%']", "optim.gamma=0.5"],
        ["loss.name=focal", "loss.gamma=1", "loss.class_weights=effective", "loss.beta=0.9"],
        ["data.decode_size=64", "augment.random_resized_crop={}"],
    ],
)
def test_settings_are_taken_where_they_belong(overrides: list[str]) -> None:
    load(1, overrides)


@pytest.mark.parametrize("size", ["0", "1000000", "8 B", "0.5 GB"])
def test_a_size_without_a_unit_is_zero_or_large(size: str) -> None:
    assert load(1, [f"data.cache={size}"]).data.cache == size


def test_what_depends_on_a_mistake_is_not_judged() -> None:
    """A schedule that was misspelled may have been step."""
    told = message(1, ["optim.schedule=stepp", "optim.gamma=0.5", "optim.milestones=['50%']", "loss.gamma=1"])
    assert "optim.gamma" not in told and "optim.milestones" not in told
    assert (
        told.startswith("the config has 2 mistakes:\n  optim.schedule=stepp: ") and "\n  loss.gamma=1.0 has no" in told
    )


def test_what_is_suggested_works() -> None:
    load(4, ["train.micro_batch_size=16"])
    load(4, ["train.micro_batch_size=32", "train.global_batch_size=128"])
    load(2, ["train.micro_batch_size=32", "train.deterministic=true"])


@pytest.mark.parametrize("settings", [{"micro_batch_size": 24}, {"deterministic": True, "global_batch_size": 96}])
def test_the_batch_plan_looks_again_at_the_processes_that_were_started(settings: dict) -> None:
    train = TrainConfig(**settings)
    (problem,) = [problem for _, problem in wrong_batches(train, 3)]
    with pytest.raises(UsageError) as caught:
        plan_batches(train, num_images=100, world_size=3)
    assert str(caught.value) == problem


def test_a_plan_needs_a_length() -> None:
    with pytest.raises(UsageError, match=r"neither train\.num_epochs nor train\.num_steps is set"):
        plan_batches(TrainConfig(num_epochs=None), num_images=100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optim.args={a: 1}"], "optim.args is for an optimizer"),
        (["loss.args={a: 1}"], "loss.args is for a loss"),
        (["objective.args={a: 1}"], "objective.args is for an objective"),
        (
            ["optim.groups=[{match: x, momentum: 0.5}]"],
            "momentum is for optim.name=sgd or muon, but optim.name is adamw .*'x'",
        ),
        (["optim.groups=[{match: x, name: sgd, eps: 0.5}]"], "eps is for optim.name=adam or adamw, but .* sgd"),
        (
            ["optim.groups=[{match: x, nesterov: true}]"],
            "nesterov is for optim.name=sgd or muon, but optim.name is adamw .*'x'",
        ),
        (["optim.groups=[{match: x, name: 'my:make', betas: [0, 0]}]"], "remove betas, or give it in args"),
        (["optim.groups=[{match: x, gamma: 0.5}]"], "gamma is for optim.schedule=step, but optim.schedule is cosine"),
        (["optim.groups=[{match: x, milestones: ['50%']}]"], "milestones is for optim.schedule=step"),
        (
            ["optim.groups=[{match: x, schedule: constant, min_lr: 1e-5}]"],
            "min_lr is for optim.schedule=cosine",
        ),
        (["optim.groups=[{match: x, schedule: step}]"], "needs milestones.*matches 'x'"),
        (["optim.groups=[{match: x, lr: 1e-4}]", "optim.min_lr=1e-3"], "is above optim.lr=0.0001.*matches 'x'"),
        (["optim.groups=[{match: x, args: {a: 1}}]"], "args are for your own optimizer"),
    ],
)
def test_what_a_group_or_a_built_in_part_cannot_use_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        load_config(None, settings)


def test_a_group_of_another_schedule_inherits_nothing_that_it_cannot_use():
    steps = ["optim.schedule=step", "optim.milestones=['50%']"]
    load_config(None, [*steps, "optim.groups=[{match: x, schedule: cosine, min_lr: 1e-6}]"])
    load_config(None, ["optim.name=sgd", "optim.nesterov=true", "optim.groups=[{match: x, name: adamw}]"])


def test_a_group_of_another_optimizer_inherits_what_it_can_use():
    words = ["optim.nesterov=true", "optim.normalize_weights=true", "optim.groups=[{match: x, name: muon}]"]
    optim = load_config(None, words).optim
    muon = optim.for_group(optim.groups[0])
    assert muon.nesterov and muon.normalize_weights
