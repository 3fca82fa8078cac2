"""Names of your own code become objects, or an error that says what is wrong with the name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distcls.config.imports import call_by_name, import_by_name, importing_only
from distcls.errors import UsageError


@pytest.fixture
def my_code(tmp_path, monkeypatch):
    """A module in the current folder, whose name is new in each test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"my_code_{abs(hash(tmp_path))}"
    Path(f"{name}.py").write_text("def make(size, depth=1):\n    return size, depth\n\n\ndef other():\n    pass\n")
    yield name
    sys.modules.pop(name, None)


def test_code_in_the_current_folder_is_found_and_called(my_code):
    assert call_by_name("model.name", f"{my_code}:make", 3, depth=2) == (3, 2)


def test_a_module_that_is_not_there_is_named_with_the_folder_searched(my_code, tmp_path):
    with pytest.raises(UsageError) as caught:
        import_by_name("model.name", "no_such.module:make")
    assert "model.name=no_such.module:make: there is no module 'no_such'" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_submodule_is_named(my_code):
    with pytest.raises(UsageError, match=r"there is no module 'json\.no_such'"):
        import_by_name("model.name", "json.no_such:make")


def test_a_function_that_is_not_there_gets_the_nearest_name(my_code):
    with pytest.raises(UsageError, match=rf"{my_code} has no 'mak'. Did you mean 'make'\?"):
        import_by_name("model.name", f"{my_code}:mak")


def test_an_import_that_your_module_misses_is_not_called_a_wrong_name(my_code):
    Path(f"{my_code}.py").write_text("import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        import_by_name("model.name", f"{my_code}:make")


def test_an_error_in_your_function_keeps_its_traceback(my_code):
    Path(f"{my_code}.py").write_text("def make(size):\n    return size / 0\n")
    with pytest.raises(ZeroDivisionError):
        call_by_name("model.name", f"{my_code}:make", 3)


def test_arguments_that_do_not_fit_are_an_error_that_names_them(my_code):
    with pytest.raises(UsageError, match=r"model.name=.*depht"):
        call_by_name("model.name", f"{my_code}:make", 3, depht=2)


@pytest.mark.parametrize("name", [":make", ".module:make"])
def test_a_name_without_a_module_is_a_usage_error(name):
    with pytest.raises(UsageError):
        import_by_name("model.name", name)


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:run", "builtins:exec", "sys:exit", "importlib.util:find_spec"]
)
def test_the_standard_library_has_no_models(name):
    module = name.partition(":")[0]
    with pytest.raises(UsageError, match=rf"model.name={name}: {module} belongs to Python itself"):
        import_by_name("model.name", name)


def test_modules_of_yours_and_of_packages_are_not_taken_for_the_standard_library(my_code):
    Path("test.py").write_text("def make():\n    return 1\n")  # Python has a package of this name
    try:
        assert import_by_name("model.name", "test:make")() == 1
    finally:
        sys.modules.pop("test", None)
    assert import_by_name("optim.name", "torch.optim:SGD").__name__ == "SGD"


def test_only_names_that_are_allowed_are_imported(my_code):
    Path("evil.py").write_text("open('executed', 'w').close()\n")
    with importing_only([f"{my_code}:make"], "it is a stranger's"):
        assert callable(import_by_name("model.name", f"{my_code}:make"))
        with pytest.raises(UsageError, match="loss.name=evil:make: it is a stranger's"):
            import_by_name("loss.name", "evil:make")
    assert not Path("executed").exists()
