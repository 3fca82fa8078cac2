"""What distcls chooses at a run's first start, from the images and the machine, and that it never chooses again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distcls.config.contradictions import contradictions
from distcls.config.loading import load_config, read_config, with_preset
from distcls.config.settings import Config, NormalizeConfig
from distcls.config.yaml_text import to_yaml
from distcls.errors import MissingInputError, UsageError
from distcls.models.library_weights import LibraryWeights
from distcls.models.timm_library import TimmWeights
from distcls.runs.resuming import GIVEN, choices_kept, fill_from, stored_config
from distcls.training.start import settling
from distcls.training.start.settling import BUNDLED, settle

CPU = torch.device("cpu")


def write_images(folder: Path, size: int, count: int = 20) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (size, size + 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("photographs"), 64)


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> None:
    monkeypatch.setattr(settling, "cannot_reach", lambda url: "no network")
    monkeypatch.setattr("distcls.models.library_weights.cannot_reach", lambda url: "no network")


def settled(folder: Path, *settings: str, path: Path | None = None) -> Config:
    config = load_config(path, [f"data.root={folder}", "data.name=folder", *settings])
    return config.replaced(settle(config, CPU))


def test_photographs_fine_tune_the_network_that_comes_with_distcls(photographs):
    config = settled(photographs)
    assert (config.preset, config.model.name, config.model.pretrained) == ("balanced", BUNDLED, True)
    assert (config.data.image_size, config.data.interpolation, config.data.crop_fraction) == (224, "bicubic", 0.875)
    assert config.augment.normalize.mean == config.augment.normalize.std == [0.5, 0.5, 0.5]
    assert config.augment.flip and config.augment.random_resized_crop is not None


def test_small_images_get_the_defaults(tmp_path):
    assert settled(write_images(tmp_path / "small", 48)) == load_config(
        None, [f"data.root={tmp_path / 'small'}", "data.name=folder", "preset=none"]
    )


@pytest.mark.parametrize("preset", ["none", "fast"])
def test_a_preset_that_is_given_counts(photographs, preset):
    config = settled(photographs, f"preset={preset}")
    assert config.preset == preset and config.model.head_only == (preset == "fast")
    assert config.model.name == (BUNDLED if preset == "fast" else "cnn2")


def test_a_config_file_has_no_preset_unless_it_names_one(photographs, tmp_path):
    (tmp_path / "own.yaml").write_text("optim: {lr: 0.1}\n")
    assert settled(photographs, path=tmp_path / "own.yaml").preset == "none"
    (tmp_path / "own.yaml").write_text("preset: balanced\noptim: {lr: 0.1}\n")
    config = settled(photographs, path=tmp_path / "own.yaml")
    assert (config.preset, config.optim.lr, config.optim.weight_decay) == ("balanced", 0.1, 0.05)


def test_what_is_given_is_kept(photographs):
    given = {"optim.lr": 0.5, "train.num_steps": 7, "data.image_size": 96, "augment.normalize.std": [0.2, 0.2, 0.2]}
    config = settled(photographs, *(f"{path}={value}" for path, value in given.items()), "augment=none")
    assert {path: config.at(path) for path in given} == given
    assert config.train.num_epochs is None
    assert not config.augment.flip and config.augment.random_resized_crop is None
    assert config.augment.normalize.mean == [0.5, 0.5, 0.5], "augment=none leaves normalization to the weights"


def test_a_named_network_without_weights_is_trained_from_scratch(photographs):
    config = settled(photographs, "model.name=torchvision/resnet18")
    assert (config.preset, config.model.name, config.model.pretrained) == ("scratch", "torchvision/resnet18", False)
    assert settled(photographs, "model.pretrained=false").model.name == "torchvision/resnet18"
    assert settled(photographs, "model.name=timm/test_vit", "model.pretrained=false").preset == "scratch"


def test_a_named_network_under_a_preset_starts_from_its_own_weights(photographs):
    name = "model.name=timm/tf_efficientnet_lite0"
    assert settled(photographs, "preset=balanced", name).model.pretrained
    with pytest.raises(MissingInputError, match=r"timm/test_vit.r160_in1k are not on .*model.weights=FILE"):
        settled(photographs, "preset=balanced", "model.name=timm/test_vit")


@pytest.mark.parametrize(("count", "epochs"), [(20, 10), (300, 10), (1200, 7), (3000, 3), (20_000, 3)])
def test_the_length_follows_from_the_number_of_images(photographs, monkeypatch, count, epochs):
    class Listed:
        labels = np.arange(2 * count) % 2

        def image(self, i: int, decoding: object) -> np.ndarray:
            return np.zeros((64, 64, 3), np.uint8)

        def __len__(self) -> int:
            return len(self.labels)

    monkeypatch.setattr(settling, "open_image_sets", lambda config: {"train": Listed()})
    config = settled(photographs)
    assert config.train.num_epochs == epochs
    assert settled(photographs, "preset=best").train.num_epochs == 2 * epochs
    scale = {3000: (64, 1e-3, 1, "10%", 0.7), 20_000: (128, 5e-4 * 8**0.5, 1, "10%", 0.7)}
    batch, lr, decay, frozen, crop = scale.get(count, (16, 1.5e-3, 0.1, "40%", 0.35))
    assert config.train.global_batch_size == batch and config.optim.lr == pytest.approx(lr)
    assert (config.optim.layer_decay, config.model.freeze_until) == (decay, frozen)
    few = count < 2000
    assert config.model.freeze_statistics == few
    assert config.augment.random_resized_crop.scale == [crop, 1.0]
    assert config.data.crop_fraction == (0.875 if few else 0.94)
    assert settled(photographs, "augment.random_resized_crop=null").data.crop_fraction == 0.875
    own_crop = settled(photographs, "augment.random_resized_crop.scale=[0.5, 1]").augment.random_resized_crop
    assert own_crop.scale == [0.5, 1.0]
    assert settled(photographs, "augment.random_resized_crop=null").augment.random_resized_crop is None
    other = settled(photographs, "preset=balanced", "model.name=timm/resnet18", "model.pretrained=false")
    assert other.augment.random_resized_crop.scale == [0.35, 1.0] and other.optim.layer_decay < 1, "unmeasured"
    assert settled(photographs, "train.global_batch_size=4").optim.lr == pytest.approx((1.5e-3 if few else 5e-4) / 2)


@pytest.mark.parametrize("name", ["freeze_statistics", "keep_head_rows", "init_partly"])
def test_what_needs_initial_weights_is_refused_without_them(photographs, name):
    with pytest.raises(UsageError, match=f"model.{name}=true needs initial weights"):
        settled(photographs, "preset=none", f"model.{name}=true")
    assert getattr(settled(photographs, f"model.{name}=true").model, name), "a preset gives them"


def test_what_is_given_of_the_rates_stays(photographs):
    given = ["optim.layer_decay=0.5", "model.freeze_until=1 epoch", "optim.lr=0.01", "train.global_batch_size=64"]
    config = settled(photographs, *given)
    assert (config.optim.layer_decay, config.model.freeze_until, config.optim.lr) == (0.5, "1 epoch", 0.01)
    assert settled(photographs, "model.freeze=[conv_stem]").model.freeze_until == "0 steps"


def test_better_weights_are_taken_if_they_are_here_or_soon_will_be(photographs, monkeypatch):
    monkeypatch.setitem(settling.NETWORKS, ("balanced", "cpu"), "timm/test_vit.r160_in1k")
    config = load_config(None, [f"data.root={photographs}", "data.name=folder"])
    assert settle(config, CPU)["model.name"] == BUNDLED, "no network"
    downloaded: list[str] = []
    monkeypatch.setattr(settling, "cannot_reach", lambda url: None)
    monkeypatch.setattr(TimmWeights, "find", lambda self: Path("x") if downloaded else None)
    monkeypatch.setattr(TimmWeights, "fetch", lambda self: downloaded.append(self.name))
    assert settle(config, CPU, may_download=False)["model.name"] == BUNDLED and not downloaded
    values = settle(config, CPU)
    assert (values["model.name"], values["data.image_size"]) == ("timm/test_vit.r160_in1k", 160)
    assert downloaded == ["timm/test_vit.r160_in1k"]


def test_a_slow_download_is_not_waited_for(photographs, monkeypatch):
    def never(self: LibraryWeights) -> None:
        import time

        time.sleep(5)

    monkeypatch.setitem(settling.NETWORKS, ("balanced", "cpu"), "timm/test_vit.r160_in1k")
    monkeypatch.setattr(settling, "SECONDS_TO_DOWNLOAD", 0.1)
    monkeypatch.setattr(settling, "cannot_reach", lambda url: None)
    monkeypatch.setattr(TimmWeights, "fetch", never)
    config = load_config(None, [f"data.root={photographs}", "data.name=folder"])
    assert settle(config, CPU)["model.name"] == BUNDLED


def test_weights_for_a_model_that_has_none_are_refused_before_images_are_read():
    config = load_config(None, ["model.pretrained=true"])
    with pytest.raises(UsageError, match=r"model.pretrained=true: cnn2 is not a library's model"):
        settle(config, CPU)
    with pytest.raises(MissingInputError, match=r"nope.pt"):
        settle(load_config(None, ["model.init_from=nope.pt"]), CPU)


def store(folder: Path, config: Config) -> Config:
    """The config of a run in a folder, as its next start reads it."""
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / GIVEN).write_text(f'{{"given": {sorted(config.given)}}}'.replace("'", '"'))
    stored = stored_config(folder)
    assert stored is not None
    return stored


def test_a_resumed_run_keeps_what_was_chosen(photographs, tmp_path, monkeypatch):
    words = [f"data.root={photographs}", "data.name=folder", "optim.lr=0.1"]
    config = load_config(None, words)
    first = config.replaced(settle(config, CPU))
    stored = store(tmp_path, first)
    assert fill_from(load_config(None, words), stored) == stored
    other = tmp_path / "presets"
    other.mkdir()
    (other / "balanced.yaml").write_text("optim: {weight_decay: 0.3}\n")  # as in a later version
    monkeypatch.setattr("distcls.config.loading.PRESET_FOLDER", other)
    assert fill_from(load_config(None, words), stored) == stored
    again = fill_from(load_config(None, words[:2]), stored)
    assert again.optim.lr != stored.optim.lr, "what was given then but not now is a difference"
    assert fill_from(load_config(None, [*words, "train.num_epochs=99"]), stored).train.num_epochs == 99


def test_a_preset_that_was_given_is_not_taken_over(photographs, tmp_path):
    words = [f"data.root={photographs}", "data.name=folder"]
    config = load_config(None, [*words, "preset=fast"])
    stored = store(tmp_path, config.replaced(settle(config, CPU)))
    assert fill_from(load_config(None, [*words, "augment.flip=true"]), stored).preset == "auto"


def test_a_start_that_was_killed_before_its_first_checkpoint_does_not_choose_again(photographs, tmp_path):
    words = [f"data.root={photographs}", "data.name=folder"]
    config = load_config(None, words)
    first = config.replaced({**settle(config, CPU), "model.name": "timm/resnet18", "train.micro_batch_size": 4})
    assert choices_kept(tmp_path, config, "cpu") is None
    store(tmp_path, first)
    kept = choices_kept(tmp_path, config, "cpu")
    assert kept is not None and config.replaced({**kept, "train.micro_batch_size": 4}) == first
    assert choices_kept(tmp_path, load_config(None, [*words, "optim.lr=0.2"]), "cpu") is None


def test_asking_for_auto_is_no_choice(photographs, tmp_path):
    words = [f"data.root={photographs}", "data.name=folder", "preset=auto"]
    config = load_config(None, words)
    stored = store(tmp_path, config.replaced(settle(config, CPU)))
    assert fill_from(config, stored) == stored and stored.preset == "balanced"


def test_a_config_file_without_a_preset_does_not_resume_a_run_with_one(photographs, tmp_path):
    config = load_config(None, [f"data.root={photographs}", "data.name=folder"])
    stored = store(tmp_path, config.replaced(settle(config, CPU)))
    (tmp_path / "own.yaml").write_text(f"data: {{root: {photographs}, name: folder}}\n")
    assert fill_from(load_config(tmp_path / "own.yaml"), stored).preset == "none"


BEST = "checkpoints/best-00000100"
INSIDE = pytest.mark.parametrize("inside", [".", "model.safetensors", BEST, f"{BEST}/model.safetensors"])
"""What model.init_from may name of a run folder."""


@pytest.fixture
def other_run(tmp_path):
    """A run folder with weights, without a config."""
    (tmp_path / BEST).mkdir(parents=True)
    for folder in (tmp_path, tmp_path / BEST):
        (folder / "model.safetensors").touch()
    normalize = {"mean": [0.1] * 3, "std": [0.2] * 3}
    described = {
        "normalize": normalize,
        "image_size": 96,
        "interpolation": "bicubic",
        "crop_fraction": 0.9,
        "resize": "pad",
    }
    (tmp_path / "preprocessing.json").write_text(json.dumps(described))
    return tmp_path


@INSIDE
def test_the_network_of_another_run_is_taken_over_unless_it_is_code(photographs, other_run, inside):
    (other_run / "config.yaml").write_text("model: {name: torchvision/resnet18, args: {zero_init_residual: true}}\n")
    from_run = f"model.init_from={other_run / inside}"
    config = settled(photographs, from_run)
    assert (config.model.name, config.model.args) == ("torchvision/resnet18", {"zero_init_residual": True})
    assert settled(photographs, from_run, "model.args={}").model.args == {}
    if inside.endswith(".safetensors"):
        assert settled(photographs, f"model.weights={other_run / inside}").model.name == "torchvision/resnet18"
    (other_run / "config.yaml").write_text("model: {name: 'evil:make'}\n")
    with pytest.raises(UsageError, match=r"a run with model.name=evil:make, which is code: if you trust it"):
        settled(photographs, from_run)


def test_a_config_beside_weights_is_not_that_of_a_run(photographs, tmp_path):
    (tmp_path / "config.yaml").write_text("model: {name: torchvision/resnet18}\n")
    (tmp_path / "w.pt").touch()
    assert settled(photographs, f"model.init_from={tmp_path / 'w.pt'}").model.name == BUNDLED


@INSIDE
def test_the_preprocessing_of_another_run_is_taken_over(photographs, other_run, inside):
    config = settled(photographs, "model.name=torchvision/resnet18", f"model.init_from={other_run / inside}")
    assert (config.data.image_size, config.data.interpolation, config.data.crop_fraction) == (96, "bicubic", 0.9)
    assert config.augment.normalize.mean == [0.1] * 3 and config.data.resize == "pad"


def test_normalization_inside_the_network_and_before_it_go_together(photographs, tmp_path):
    """For its weights of inception_v3, torchvision sets transform_input, which normalizes again."""
    (tmp_path / "w.pt").touch()
    words = ["train.precision=float32", "model.name=torchvision/inception_v3", f"model.weights={tmp_path / 'w.pt'}"]
    inside, given = "model.args={aux_logits: false, transform_input: true}", "augment.normalize.mean=[0.1, 0.2, 0.3]"
    assert settled(photographs, *words).augment.normalize == NormalizeConfig([0.5] * 3, [0.5] * 3)
    assert settled(photographs, *words, inside).augment.normalize == NormalizeConfig()
    assert settled(photographs, *words, given).augment.normalize == NormalizeConfig([0.1, 0.2, 0.3], [0.5] * 3)


def test_crops_from_images_of_another_size_need_a_preset_that_crops(photographs, tmp_path):
    assert settled(photographs, "data.decode_size=256").data.decode_size == 256
    with pytest.raises(UsageError, match=r"preset=none: data.decode_size=256 has no effect"):
        settled(write_images(tmp_path / "small", 48), "data.decode_size=256")


def test_settings_of_a_preset_give_way_to_what_makes_them_useless(photographs):
    config = settled(photographs, "model.head_only=true")
    assert config.preset == "balanced" and not config.augment.flip
    assert config.model.freeze_until == Config().model.freeze_until and config.optim.layer_decay == 1
    assert list(contradictions(config, 1)) == []
    assert settled(photographs, "loss.name=own_models:loss").loss.label_smoothing == 0


def test_a_preset_that_contradicts_what_is_given_is_refused():
    config = load_config(None, ["augment.flip=true"])
    assert with_preset(config, "balanced").preset == "balanced"
    with pytest.raises(UsageError, match=r"preset=fast: augment.flip has no effect with model.head_only=true"):
        with_preset(config, "fast")
    with pytest.raises(UsageError, match="optim.momentum"):
        load_config(None, ["preset=fast", "optim.momentum=0.5"])


def test_every_preset_is_a_config_that_can_be_read():
    for name in settling.PRESETS:
        config = load_config(Path(settling.__file__).parents[2] / "presets" / f"{name}.yaml")
        assert config.preset == name
    assert read_config  # the files are read by the same loader as users' own
