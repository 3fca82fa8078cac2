"""The built-in networks are what they say, others are found by name, and what is frozen stays."""

from __future__ import annotations

import pytest
import torch

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import MODELS, build_model

pytestmark = pytest.mark.usefixtures("one_thread")


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


SIZES = {
    "cnn2": (545_194, "545 thousand"),
    "cnn3": (1_147_690, "1.1 million"),
    "simple_cnn": (94_762, "95 thousand"),
    "resnet9": (6_573_130, "6.6 million"),
    "airbench": (1_972_792, "2.0 million"),
    "small_resnet": (11_173_962, "11.2 million"),
    "tiny_resnet": (188_154, "188 thousand"),
    "searchable_cnn": (298_026, "298 thousand"),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_sizes_are_those_of_the_docstrings(name):
    parameters, in_words = SIZES[name]
    assert count(build_model(ModelConfig(name=name), 10, 32)) == parameters
    assert in_words in (MODELS[name].__doc__ or "")


@pytest.mark.parametrize("name", ["simple_cnn", "small_resnet", "tiny_resnet", "searchable_cnn"])
def test_global_pooling_makes_the_size_independent_of_the_images(name):
    small, large = (build_model(ModelConfig(name=name), 10, size) for size in (8, 64))
    assert count(small) == count(large)


def test_the_resnet_20_of_the_paper_has_0_27_million_parameters():
    model = build_model(ModelConfig(name="small_resnet", args={"widths": [16, 32, 64], "blocks": [3, 3, 3]}), 10, 32)
    assert round(count(model) / 1e6, 2) == 0.27
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 19


@pytest.mark.parametrize("name", ["small_resnet", "tiny_resnet"])
def test_residual_blocks_start_as_their_shortcuts(name):
    """The last BatchNorm of each block is zero, so the convolutions of a block without projection do nothing yet."""
    model = build_model(ModelConfig(name=name), 3, 16).eval()
    block = model.get_submodule("layer2.1")
    features = torch.rand(2, block.get_submodule("convolutions.0").in_channels, 4, 4)
    assert torch.equal(block(features), features)


def test_a_network_without_blocks_is_refused():
    with pytest.raises(UsageError, match=r"channels=\[\], expected the channels of one or more blocks"):
        build_model(ModelConfig(name="simple_cnn", args={"channels": []}), 3, 8)


@pytest.mark.parametrize("args", [{"widths": []}, {"widths": [8]}, {"widths": [8, 16], "blocks": [1, 0]}])
def test_stages_need_a_width_and_a_block_each(args):
    with pytest.raises(UsageError, match=r"expected one width and one or more blocks for each stage"):
        build_model(ModelConfig(name="tiny_resnet", args=args), 3, 8)


@pytest.mark.parametrize("args", [{"kernel": 4}, {"depth": -1}, {"width": 0}, {"growth": 0}])
def test_a_search_stays_inside_what_can_be_built(args):
    with pytest.raises(UsageError, match=r"expected an odd kernel, a depth of 0 or more, and the others above 0"):
        build_model(ModelConfig(name="searchable_cnn", args=args), 3, 8)


def test_width_depth_and_kernel_mean_what_they_say():
    args = {"width": 8, "depth": 2, "kernel": 5, "stages": 2, "growth": 1.5, "stem_stride": 2}
    model = build_model(ModelConfig(name="searchable_cnn", args=args), 3, 16).eval()
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0]) for c in convolutions] == [(8, 3)] + [(8, 5)] * 3 + [(12, 5)] * 3
    features = model.get_submodule("stem")(torch.zeros(1, 3, 16, 16))
    assert model.get_submodule("stage2")(features).shape == (1, 12, 4, 4)
    separable = build_model(ModelConfig(name="searchable_cnn", args={**args, "separable": True}), 3, 16)
    assert count(separable) < count(model) / 4


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("size", [8, 9, 13, 28, 30, 33])
def test_any_image_size_from_8_pixels_gives_a_score_per_class(name, size):
    size = max(size, 9) if name == "airbench" else size
    model = build_model(ModelConfig(name=name), 7, size).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["cnn3", "simple_cnn", "resnet9", "tiny_resnet", "searchable_cnn"])
def test_images_that_are_too_small_are_a_usage_error_or_work(name):
    try:
        model = build_model(ModelConfig(name=name), 7, 4).eval()
    except UsageError:
        return
    assert model(torch.zeros(1, 3, 4, 4)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, 28 if name == "cnn3" else 32) for name in MODELS],
)
def test_no_layer_raises_in_deterministic_mode_on_a_gpu(name, size):
    """torch.use_deterministic_algorithms(True) makes the backward pass of these raise a RuntimeError on CUDA."""
    kinds = {type(m).__name__ for m in build_model(ModelConfig(name=name), 10, size).modules()}
    assert not kinds & {"AdaptiveMaxPool2d", "AdaptiveAvgPool2d"}


def test_the_weights_lie_in_the_memory_format_that_was_asked_for():
    for channels_last in (True, False):
        model = build_model(ModelConfig(channels_last=channels_last), 3, 8)
        weights = [p for p in model.parameters() if p.ndim == 4]
        assert weights and all(w.is_contiguous() is not channels_last for w in weights)


class Volumetric(torch.nn.Module):
    """Looks at the color channels as at a third dimension."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.volume, self.flat = torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv2d(12, 4, 3)
        self.head = torch.nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.flat(self.volume(images[:, None]).flatten(1, 2)).mean((2, 3)))


def test_only_weights_of_four_dimensions_have_a_memory_format(monkeypatch):
    import ledger

    monkeypatch.setattr(ledger, "volumetric", Volumetric, raising=False)
    torch.manual_seed(0)
    expected = Volumetric(5).state_dict()
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="ledger:volumetric"), 5, 8)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model.volume.weight.is_contiguous() and not model.flat.weight.is_contiguous()
    model(torch.rand(2, 3, 8, 8)).sum().backward()


def test_arguments_reach_the_model():
    model = build_model(ModelConfig(args={"hidden": 16, "dropout": 0.6}), 3, 8)
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.6]
    assert model.state_dict()["head.weight"].shape == (3, 16)


def test_arguments_that_do_not_fit_are_an_error():
    with pytest.raises(UsageError, match=r"model.args=.*do not fit model.name=cnn2.*dropuot"):
        build_model(ModelConfig(args={"dropuot": 0.1}), 3, 8)


@pytest.mark.parametrize("args", [{"dropout": 2}, {"hidden": -1}])
def test_values_that_the_layers_refuse_are_an_error(args):
    with pytest.raises(UsageError, match=r"model.args=.*do not fit model.name=cnn2"):
        build_model(ModelConfig(args=args), 3, 8)


def test_an_unknown_model_names_the_nearest_and_the_known_ones():
    with pytest.raises(UsageError, match=r"model.name=resnet8.*Did you mean 'resnet9'.*torchvision/NAME"):
        build_model(ModelConfig(name="resnet8"), 3, 8)


def test_your_own_model_gets_the_number_of_classes():
    model = build_model(ModelConfig(name="ledger:make", args={"width": 4}), 5, 8)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_models_of_torchvision_get_a_head_of_the_right_size():
    model = build_model(ModelConfig(name="torchvision/squeezenet1_1"), 4, 64).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


def test_an_unknown_model_of_torchvision_names_the_nearest():
    with pytest.raises(UsageError, match=r"torchvision .* has no such model. Did you mean 'resnet18'"):
        build_model(ModelConfig(name="torchvision/resnet81"), 4, 64)


def test_a_model_of_torchvision_without_its_prefix_is_recognized():
    with pytest.raises(
        UsageError, match=r"there is no such model. Did you mean torchvision/resnet18 or timm/resnet18\?"
    ):
        build_model(ModelConfig(name="resnet18"), 4, 64)


def test_arguments_that_do_not_fit_a_model_of_torchvision_are_an_error():
    with pytest.raises(UsageError, match=r"model\.args"):
        build_model(ModelConfig(name="torchvision/squeezenet1_1", args={"dropuot": 0.1}), 4, 64)


def test_a_wrong_value_of_an_argument_is_not_called_an_unknown_model():
    with pytest.raises(UsageError) as caught:
        build_model(ModelConfig(name="torchvision/squeezenet1_1", args={"weights": "DEFAULT"}), 4, 64)
    assert "has no such model" not in str(caught.value)


# Freezing ------------------------------------------------------------------------------------------


def trained(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_frozen_part_is_not_trained():
    model = build_model(ModelConfig(freeze=["blocks.0", "hidden.bias"]), 3, 8)
    every = {name for name, _ in model.named_parameters()}
    assert every - trained(model) == {
        "blocks.0.0.weight",
        "blocks.0.1.weight",
        "blocks.0.1.bias",
        "hidden.bias",
    }


def test_a_name_is_frozen_as_a_whole_word():
    with pytest.raises(UsageError, match=r"no parameter name begins with 'block'. Did you mean 'blocks'\?"):
        build_model(ModelConfig(freeze=["block"]), 3, 8)


def test_a_part_that_is_not_there_is_an_error_that_lists_the_parts():
    with pytest.raises(UsageError, match="The model's parts are blocks, flatten, hidden"):
        build_model(ModelConfig(freeze=["encoder"]), 3, 8)


def test_freezing_everything_is_an_error():
    with pytest.raises(UsageError, match="freezes the whole model"):
        build_model(ModelConfig(freeze=["blocks", "hidden", "head"]), 3, 8)


def one_too_many(num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, num_classes + 1), torch.nn.Dropout())


def test_your_own_model_with_other_outputs_than_classes_is_told(monkeypatch):
    import ledger

    monkeypatch.setattr(ledger, "one_too_many", one_too_many, raising=False)
    monkeypatch.setattr(ledger, "no_module", lambda num_classes: "a name", raising=False)
    with pytest.raises(UsageError, match=r"ledger:one_too_many returns \(2, 6\) for two .* expected \(2, 5\)"):
        build_model(ModelConfig(name="ledger:one_too_many"), 5, 8)
    with pytest.raises(UsageError, match=r"ledger:no_module returned a str, expected a torch.nn.Module"):
        build_model(ModelConfig(name="ledger:no_module"), 5, 8)
    assert build_model(ModelConfig(name="ledger:one_too_many"), 5, 9).training  # a size that it cannot take: told later


class Caching(torch.nn.Module):
    """Keeps something from its first forward pass, as position tables are kept."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, num_classes)
        self.cache: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            self.cache = torch.rand(3)
        return self.head(images.mean((2, 3)) * self.cache)


def test_a_look_at_the_outputs_leaves_nothing_in_the_model(monkeypatch):
    import ledger

    monkeypatch.setattr(ledger, "caching", Caching, raising=False)
    torch.manual_seed(0)
    expected = Caching(5).head.weight, torch.rand(1)
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="ledger:caching", channels_last=False), 5, 8)
    assert torch.equal(model.head.weight, expected[0]) and torch.equal(torch.rand(1), expected[1])
    assert model.cache is None
    model(torch.rand(2, 3, 8, 8)).sum().backward()


def by_other_name(model_name: str, name: str = "x", **kwargs) -> torch.nn.Module:
    """As timm.create_model: the first argument is the model's, and num_classes comes by name."""
    assert (model_name, name) == ("resnet", "mine")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, kwargs["num_classes"]))


def test_your_own_model_gets_the_number_of_classes_by_name(monkeypatch):
    import ledger

    monkeypatch.setattr(ledger, "by_other_name", by_other_name, raising=False)
    monkeypatch.setattr(
        ledger, "by_place", lambda n, setting: by_other_name("resnet", "mine", num_classes=n), raising=False
    )
    config = ModelConfig(name="ledger:by_other_name", args={"model_name": "resnet", "name": "mine"})
    assert build_model(config, 5, 8)[1].out_features == 5
    assert build_model(ModelConfig(name="ledger:by_place", args={"setting": 1}), 4, 8)[1].out_features == 4
