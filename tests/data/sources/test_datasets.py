from __future__ import annotations

import importlib.metadata
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distcls.config.settings import DataConfig
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.datasets import check_source, open_image_sets
from distcls.data.sources.image_set import ArraySet
from distcls.errors import BadDataError, MissingInputError, UsageError

FACTORY = """
import numpy as np
from distcls.data.sources.image_set import ArraySet

def make(config):
    return ArraySet("mine", ["a", "b"], np.array([0, 1, 0]), np.full((3, 4, 4, 3), config.image_size, np.uint8))

def splits(config):
    return {"train": make(config), "test": make(config)}

def no_train(config):
    return {"test": make(config)}

def half(config):
    return [1, 2]

def one_class(config):
    return ArraySet("mine", ["a"], np.array([0, 0]), np.zeros((2, 4, 4, 3), np.uint8))

def twins(config):
    return ArraySet("mine", ["a", "b", "a"], np.array([0, 1]), np.zeros((2, 4, 4, 3), np.uint8))

def too_few_labels(config):
    return ArraySet("mine", ["a", "b"], np.array([0, 1]), np.zeros((3, 4, 4, 3), np.uint8))

def other_classes(config):
    return {"train": make(config), "val": ArraySet("v", ["a", "c"], np.array([0]), np.zeros((1, 4, 4, 3), np.uint8))}

def arguments(config):
    return ArraySet("mine", ["a", "b"], np.array([0, 1] * config.args["n"]), np.zeros((6, 4, 4, 3), np.uint8))

class Mine:
    class_names = ["a", "b"]

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return 3

    def image(self, i, decoding):
        return np.zeros(decoding.shape, np.uint8)

    def name(self, i):
        return str(i)

    def fingerprint(self):
        return "mine"

def list_labels(config):
    return Mine([0, 1, 0])

def tensor_labels(config):
    import torch
    return Mine(torch.tensor([0, 1, 0]))

def ragged_labels(config):
    return Mine([[0], [1, 0], 0])

def word_labels(config):
    return Mine(["a", "b", "a"])

def float_labels(config):
    return Mine(np.array([0.0, 1.0, 0.0]))

def wrong_labels(config):
    return ArraySet("mine", ["a", "b"], np.array([0, 2]), np.zeros((2, 4, 4, 3), np.uint8))
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "factories_of_test.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "factories_of_test", raising=False)


def test_digits() -> None:
    digits = open_image_sets(DataConfig(name="digits"))["train"]
    assert len(digits) == 1797 and digits.class_names == list("0123456789")
    assert isinstance(digits, ArraySet) and digits.images.shape == (1797, 8, 8, 3)
    assert digits.images.min() == 0 and digits.images.max() == 255
    assert digits.labels[:5].tolist() == [0, 1, 2, 3, 4] and digits.name(17) == "digits/17"
    assert digits.image(0, Decoding(32)).shape == (32, 32, 3)


def test_digits_without_scikit_learn_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    with pytest.raises(MissingInputError, match="pip install scikit-learn"):
        open_image_sets(DataConfig(name="digits"))


DIGITS = "79d73e87f3696904b0d1f1965d8b932cef56e8842635ca997e9461dc800ccd11"
"""The fingerprint of every version so far: runs of older ones are resumed."""


def test_the_fingerprint_of_the_digits_stays() -> None:
    digits = open_image_sets(DataConfig(name="digits"))["train"]
    assert digits.fingerprint() == pickle.loads(pickle.dumps(digits)).fingerprint() == DIGITS


def test_digits_are_imported_once_and_then_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(name="digits", cache_dir=str(tmp_path))
    first = open_image_sets(config)["train"]
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # importing it is an error now
    second = open_image_sets(config)["train"]
    assert isinstance(first, ArraySet) and isinstance(second, ArraySet) and isinstance(second.images, np.memmap)
    assert np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)


def test_digits_need_no_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    digits = open_image_sets(DataConfig(name="digits", cache_dir=str(tmp_path / "file")))["train"]
    assert digits.fingerprint() == DIGITS and digits.name(17) == "digits/17"


def test_an_unknown_name_shows_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'cifar10'"):
        open_image_sets(DataConfig(name="cifar-10"))


@pytest.mark.usefixtures("factories")
def test_your_own_factory_gets_the_config() -> None:
    image_sets = open_image_sets(DataConfig(name="factories_of_test:make", image_size=7))
    assert list(image_sets) == ["train"] and np.all(image_sets["train"].image(0, Decoding(4)) == 7)
    assert list(open_image_sets(DataConfig(name="factories_of_test:splits", image_size=7))) == ["train", "test"]
    assert len(open_image_sets(DataConfig(name="factories_of_test:arguments", args={"n": 3}))["train"]) == 6


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no_such_module:make", UsageError, "there is no module 'no_such_module'"),
        ("factories_of_test:nothing", UsageError, "nothing"),
        ("factories_of_test:no_train", UsageError, "expected train"),
        ("factories_of_test:half", UsageError, "lacks class_names, labels"),
        ("factories_of_test:wrong_labels", BadDataError, "between 0 and 1"),
        ("factories_of_test:ragged_labels", BadDataError, "labels of the train split of .* are a list, not"),
        ("factories_of_test:word_labels", BadDataError, "are a list, not an int64 array of shape .3,.: np.array"),
        ("factories_of_test:float_labels", BadDataError, "are float64 .3,., not an int64 array"),
        ("factories_of_test:one_class", BadDataError, "only one class"),
        ("factories_of_test:twins", BadDataError, "two classes named 'a'"),
        ("factories_of_test:too_few_labels", BadDataError, "mine has 3 images, but 2 labels"),
        ("factories_of_test:other_classes", BadDataError, "the val split of .* has different class names than train"),
    ],
)
def test_mistakes_in_your_own_factory_are_explained(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_image_sets(DataConfig(name=name, image_size=7))


def test_decoding_processes_start_without_torch() -> None:
    code = "import sys, distcls.data.decoding.worker as w; print([m for m in ('torch', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize("name", ["list_labels", "tensor_labels"])
def test_labels_in_a_list_or_a_tensor_are_taken_as_an_array(name: str) -> None:
    train = open_image_sets(DataConfig(name=f"factories_of_test:{name}"))["train"]
    assert train.labels.dtype == np.int64 and train.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["csv", "npz"])
def test_the_file_of_a_data_set_is_looked_for_before_anything_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.name={name} needs the file of your images: --data FILE\.{name}"):
        check_source(DataConfig(name=name))
    with pytest.raises(MissingInputError, match=rf"is a folder\. Give the file of your images: --data FILE\.{name}"):
        check_source(DataConfig(name=name, root=str(tmp_path)))
    (tmp_path / "file").touch()
    check_source(DataConfig(name=name, root=str(tmp_path / "file")))
