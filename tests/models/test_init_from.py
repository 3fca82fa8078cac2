"""What is taken from other weights, what starts fresh, and that it is said."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.errors import MissingInputError, UsageError
from distcls.files.verified import tensor_writer
from distcls.models.build import build_model
from distcls.models.init_from import InitFrom, find_source, find_weights, init_from

CLASSES = ["cat", "dog", "emu"]


def make_model(num_classes: int = 3, seed: int = 0, **args):
    torch.manual_seed(seed)
    return build_model(ModelConfig(args={"hidden": 8, **args}, channels_last=False), num_classes, 8)


def start_from(model, path: Path, class_names: list[str], **settings) -> InitFrom:
    config = ModelConfig(init_from=str(path), args={"hidden": 8}, **settings)
    source = find_source(config)
    assert source is not None
    return init_from(model, source, config, class_names, 8)


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """A finished run with three classes, and the weights of make_model(seed=1)."""
    run_dir = tmp_path / "run"
    (run_dir / "model").mkdir(parents=True)
    (run_dir / "classes.json").write_text(json.dumps(CLASSES))
    save_file(make_model(seed=1).state_dict(), run_dir / "model" / "model.safetensors")
    return run_dir


def loaded(model, source_model) -> set[str]:
    """Names of the tensors that are those of the source."""
    ours, theirs = model.state_dict(), source_model.state_dict()
    same = {n for n in ours if ours[n].shape == theirs[n].shape and torch.equal(ours[n], theirs[n])}
    return {n for n in same if "running" not in n and "tracked" not in n and "0.1." not in n and "1.1." not in n}


WEIGHTS = {"blocks.0.0.weight", "blocks.1.0.weight", "hidden.weight", "hidden.bias"}
HEAD = {"head.weight", "head.bias"}


def test_the_same_classes_take_everything(run_dir):
    model = make_model()
    lines, warnings = start_from(model, run_dir, CLASSES)
    assert loaded(model, make_model(seed=1)) == WEIGHTS | HEAD and not warnings
    assert len(lines) == 1 and lines[0].startswith("weights from ") and lines[0].endswith("16 of 16 tensors")


def test_another_number_of_classes_gets_a_new_head_and_says_so(run_dir):
    model = make_model(5)
    lines = start_from(model, run_dir, ["a", "b", "c", "d", "e"]).notes
    assert loaded(model, make_model(seed=1)) == WEIGHTS
    assert not model.state_dict()["head.weight"].any()
    assert lines[1].startswith("new head for 5 classes") and "head.weight, head.bias" in lines[1]


@pytest.mark.parametrize("names", [["cat", "dog", "fox"], ["dog", "cat", "emu"]])
def test_other_names_or_another_order_get_a_new_head(run_dir, names):
    model = make_model()
    lines = start_from(model, run_dir, names).notes
    assert loaded(model, make_model(seed=1)) == WEIGHTS
    assert "new head for 3 classes" in lines[1]


def test_statistics_are_loaded_too(run_dir):
    source = make_model(seed=1)
    source.state_dict()["blocks.0.1.running_mean"].fill_(5.0)
    save_file(source.state_dict(), run_dir / "model" / "model.safetensors")
    model = make_model(5)
    start_from(model, run_dir, list("abcde"))
    assert (model.state_dict()["blocks.0.1.running_mean"] == 5).all()


def test_another_architecture_is_an_error_that_names_the_shapes(run_dir):
    with pytest.raises(UsageError, match=r"a different architecture: hidden.weight is \(8, 256\), expected \(9, 256\)"):
        start_from(make_model(hidden=9), run_dir, CLASSES)


def test_weights_that_share_no_name_are_an_error_that_names_some(tmp_path):
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(
        UsageError, match=r"no tensors in common.*It has encoder.weight.*the model has blocks.0.0.weight"
    ):
        start_from(make_model(), tmp_path / "w.safetensors", CLASSES)


class Tied(nn.Module):
    """Two of its layers share their weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight


def test_weights_that_two_layers_share_are_loaded_into_both(tmp_path):
    model, source = Tied(0), Tied(1)
    with (tmp_path / "tied.safetensors").open("wb") as file:
        tensor_writer(source.state_dict())(file)
    report = start_from(model, tmp_path / "tied.safetensors", CLASSES)
    assert "6 of 6 tensors" in report.notes[0] and not report.warnings
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert model.second.weight is model.first.weight


def test_a_refused_file_leaves_the_weights_alone(run_dir):
    model = make_model(hidden=9)
    with pytest.raises(UsageError):
        start_from(model, run_dir, CLASSES)
    assert torch.equal(model.state_dict()["blocks.0.0.weight"], make_model(hidden=9).state_dict()["blocks.0.0.weight"])


def with_prefix(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in make_model(seed=1).state_dict().items()}


@pytest.mark.parametrize(
    "content",
    [
        with_prefix(""),
        with_prefix("module."),
        with_prefix("_orig_mod."),
        with_prefix("module._orig_mod."),
        with_prefix("_orig_mod.module."),
        {"state_dict": with_prefix("module."), "epoch": 3},
        {"model": with_prefix("")},
        {"model_state_dict": with_prefix("")},
        {
            "arch": "cnn2",
            "state_dict": make_model(seed=2).state_dict(),
            "state_dict_ema": with_prefix(""),
            "args": argparse.Namespace(lr=0.1),
        },
    ],
    ids=[
        "plain",
        "DDP",
        "compiled",
        "DDP of compiled",
        "compiled DDP",
        "state_dict",
        "model",
        "model_state_dict",
        "timm",
    ],
)
def test_files_of_torch_save_are_understood(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    model = make_model()
    start_from(model, tmp_path / "w.pt", CLASSES)
    assert loaded(model, make_model(seed=1)) == WEIGHTS | HEAD


class Wrapped(torch.nn.Module):
    """Somebody's model whose network is called `module`, as a wrapper of DDP would be."""

    def __init__(self):
        super().__init__()
        self.module = torch.nn.Linear(2, 3)


def test_a_part_that_is_called_module_is_not_taken_for_a_prefix(tmp_path):
    source, model = Wrapped(), Wrapped()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    start_from(model, tmp_path / "w.safetensors", CLASSES)
    assert torch.equal(model.module.weight, source.module.weight)


def test_what_the_source_does_not_have_is_a_warning(tmp_path):
    tensors = make_model(seed=1).state_dict()
    save_file({name: tensors[name] for name in tensors if "hidden" not in name}, tmp_path / "w.safetensors")
    warnings = start_from(make_model(), tmp_path / "w.safetensors", CLASSES).warnings
    assert len(warnings) == 1 and "has weights for 14 of 16 tensors. The other 2 get random weights" in warnings[0]
    assert warnings[0].endswith("hidden.weight, hidden.bias")


def test_a_file_from_before_batchnorms_counters_lacks_nothing(tmp_path):
    tensors = make_model(seed=1).state_dict()
    save_file({name: tensors[name] for name in tensors if "tracked" not in name}, tmp_path / "w.safetensors")
    model = make_model()
    model.get_buffer("blocks.0.1.num_batches_tracked").fill_(7)
    done = start_from(model, tmp_path / "w.safetensors", CLASSES)
    assert not done.warnings and done.notes[0].endswith("14 of 14 tensors")
    assert loaded(model, make_model(seed=1)) == WEIGHTS | HEAD
    assert not any(counter.any() for name, counter in model.named_buffers() if "tracked" in name)


def test_weights_for_less_than_half_of_a_model_are_an_error_unless_asked_for(tmp_path):
    tensors, few = make_model(seed=1).state_dict(), tmp_path / "w.safetensors"
    names = [name for name in tensors if not name.startswith("blocks")]
    save_file({name: tensors[name] for name in names}, few)
    model = make_model()
    with pytest.raises(UsageError, match=r"has only 4 of the model's 14 tensors: it lacks blocks.0.*init_partly=true"):
        start_from(model, few, CLASSES)
    assert not loaded(model, make_model(seed=1)), "nothing was loaded"
    assert "has weights for 4 of 14 tensors" in start_from(model, few, CLASSES, init_partly=True).warnings[0]
    assert loaded(model, make_model(seed=1)) == {"hidden.weight", "hidden.bias"} | HEAD


def test_a_head_for_other_classes_does_not_count(tmp_path):
    """A linear probe has two tensors, and both are its head."""
    source, model = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.nn.Sequential(torch.nn.Linear(2, 2))
    for module, num_classes in ((source, 3), (model, 5)):
        module.append(torch.nn.Linear(2, num_classes))
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    done = start_from(model, tmp_path / "w.safetensors", list("abcde"))
    assert torch.equal(model[0].weight, source[0].weight) and not done.warnings


def test_no_pickle_that_runs_code_is_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({"head.weight": torch.zeros(3), "evil": Evil()}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="cannot be read as weights"):
        start_from(make_model(), tmp_path / "w.pt", CLASSES)
    assert not (tmp_path / "executed").exists()


def test_the_kept_model_comes_before_the_best_and_that_before_the_newest(run_dir):
    for name in ("step-00000009", "step-00000010", "best-00000004", "best-00000008"):
        (run_dir / "checkpoints" / name).mkdir(parents=True)
        (run_dir / "checkpoints" / name / "model.safetensors").touch()
    assert find_weights(run_dir) == run_dir / "model" / "model.safetensors"
    (run_dir / "model" / "model.safetensors").unlink()
    assert find_weights(run_dir).parent.name == "best-00000008"
    for path in run_dir.glob("checkpoints/best-*/*"):
        path.unlink()
    assert find_weights(run_dir).parent.name == "step-00000010"


def test_no_weights_are_a_missing_input(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.pt"):
        with pytest.raises(MissingInputError, match="no weights found"):
            find_weights(path)


def test_a_file_that_is_no_weights_is_a_usage_error(tmp_path):
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(UsageError, match="cannot be read as weights"):
            start_from(make_model(), tmp_path / name, CLASSES)


def test_a_file_that_holds_something_else_is_a_usage_error(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "w.pt")
    with pytest.raises(UsageError):
        start_from(make_model(), tmp_path / "w.pt", CLASSES)


def test_a_finished_run_that_goes_on_is_used_by_its_best_weights_so_far(run_dir):
    for step in (5, 9):
        (run_dir / f"checkpoints/best-{step:08d}").mkdir(parents=True)
        save_file(make_model(seed=step).state_dict(), run_dir / f"checkpoints/best-{step:08d}/model.safetensors")
    for state, folder in (("finished", "model"), ("running", "best-00000009"), ("preempted", "best-00000009")):
        (run_dir / "status.json").write_text(json.dumps({"state": state}))
        assert find_weights(run_dir).parent.name == folder
