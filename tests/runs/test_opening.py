"""A run folder from elsewhere can be used, and cannot run code; one's own works as before."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest

from distcls.config.imports import import_by_name
from distcls.errors import MissingInputError, UsageError
from distcls.runs.opening import SIGNATURE, check_run_folder, is_own, opened_run, sign_config

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"
EVIL = "from pathlib import Path\nPath('executed').touch()\n\n\ndef make(*args, **kwargs):\n    return None\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and a user who has no key yet."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("evil", "mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def make_run(**names: str) -> Path:
    """A run folder whose sections, such as model="evil:make", have these names."""
    run_dir = Path("runs/foreign")
    shutil.copytree(OLD_RUN, run_dir)
    text = (run_dir / "config.yaml").read_text()
    for section, name in names.items():
        head, tail = text.split(f"{section}:\n  name: ")
        text = f"{head}{section}:\n  name: {name}\n{tail.partition(chr(10))[2]}"
    (run_dir / "config.yaml").write_text(text)
    Path("evil.py").write_text(EVIL)
    return run_dir


PARTS = ["data", "model", "loss"]


@pytest.mark.parametrize("part", PARTS)
def test_code_of_a_foreign_run_is_refused_before_it_is_imported(part: str) -> None:
    run_dir = make_run(**{part: "evil:make"})
    with (
        pytest.raises(UsageError, match=rf"{part}.name=evil:make: runs/foreign names code .* --trust"),
        opened_run(run_dir, PARTS),
    ):
        raise AssertionError("it was opened")
    with opened_run(run_dir, PARTS, trust=True):
        assert not Path("executed").exists()


def test_what_is_built_in_needs_no_trust() -> None:
    with opened_run(make_run(), PARTS) as config:
        assert config.model.name == "cnn2"


def test_code_that_is_not_needed_is_no_obstacle_and_is_not_imported() -> None:
    with (
        opened_run(make_run(data="evil:make"), ["model"]),
        pytest.raises(UsageError, match="data.name=evil:make: .*--trust"),
    ):
        import_by_name("data.name", "evil:make")
    assert not Path("executed").exists()


def test_names_that_the_user_types_are_imported() -> None:
    run_dir = make_run(data="evil:make", model="evil:make")
    Path("mine.py").write_text("def open_images(config):\n    return 1\n")
    with opened_run(make_copy(run_dir), ["data"], ['data.name="mine:open_images"']):
        assert import_by_name("data.name", "mine:open_images")(None) == 1
        with pytest.raises(UsageError, match="--trust"):
            import_by_name("model.name", "evil:make")
    assert callable(import_by_name("model.name", "evil:make")), "afterwards, a config is the user's own again"


def make_copy(run_dir: Path) -> Path:
    return Path(shutil.copytree(run_dir, "runs/copy"))


def test_a_run_of_ones_own_is_used_as_before_also_by_its_model_folder() -> None:
    run_dir = make_run(model="evil:make")
    sign_config(run_dir)
    shutil.copytree(run_dir, run_dir / "model", ignore=shutil.ignore_patterns(SIGNATURE))
    for folder in (run_dir, run_dir / "model", make_copy(run_dir)):
        with opened_run(folder, PARTS):
            import_by_name("model.name", "evil:make")


def test_a_config_that_was_changed_is_not_ones_own_any_more() -> None:
    run_dir = make_run(model="evil:make")
    sign_config(run_dir)
    assert is_own(run_dir)
    text = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(text.replace("args: {hidden: 2}", "args: {path: /home}"))
    assert not is_own(run_dir)


def test_a_signature_of_somebody_else_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(model="evil:make")
    sign_config(run_dir)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "other user"))
    assert not is_own(run_dir)
    (run_dir / SIGNATURE).write_text("0" * 64)
    sign_config(make_copy(run_dir))
    assert not is_own(run_dir)


def test_the_key_is_the_users_alone_and_made_only_where_there_is_code_to_sign(home: Path) -> None:
    sign_config(make_run())
    assert not (home / "config").exists() and not (OLD_RUN / SIGNATURE).exists()
    shutil.rmtree("runs")
    sign_config(make_run(model="evil:make"))
    assert stat.S_IMODE((home / "config" / "distcls" / "key").stat().st_mode) == 0o600


def test_without_a_home_that_can_be_written_a_run_is_not_signed(home: Path) -> None:
    (home / "config").write_text("")
    run_dir = make_run(model="evil:make")
    sign_config(run_dir)
    assert not is_own(run_dir) and not (run_dir / SIGNATURE).exists()


def test_a_folder_that_is_no_run_is_named_with_those_that_are() -> None:
    make_run()
    with pytest.raises(MissingInputError, match=r"runs/foreing: no such run folder. Did you mean 'foreign'\?"):
        check_run_folder(Path("runs/foreing"))
    with pytest.raises(MissingInputError, match=r"runs/xyz: no such run folder. runs contains foreign."):
        check_run_folder(Path("runs/xyz"))
    (Path("runs/foreign") / "classes.json").unlink()
    with pytest.raises(MissingInputError, match="runs/foreign is not a run folder: it has no classes.json"):
        check_run_folder(Path("runs/foreign"))
