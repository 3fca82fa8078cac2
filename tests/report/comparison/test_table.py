"""The table of runs: sorted, filtered, and honest about what it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import make_run

from distcls.errors import MissingInputError, UsageError
from distcls.report.comparison.table import Table, build_table


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three finished runs, one that was stopped and one that failed before its first evaluation."""
    for name, lr, accuracy in (("a", 0.1, 0.8), ("b", 0.3, 0.95), ("c", 0.2, 0.9)):
        make_run(tmp_path / name, f"optim.lr={lr}", accuracy=accuracy)
    make_run(tmp_path / "d", "model.name=cnn3", state="preempted", accuracy=0.99, reason="SIGTERM")
    make_run(tmp_path / "e", state="failed", accuracy=None, reason="no images")
    return tmp_path


def order(table: Table) -> str:
    return "".join(row.name for row in table.rows)


def test_folders_are_sorted_by_val_and_named_runs_are_not(folder) -> None:
    table = build_table([folder])
    assert order(table) == "dbcae" and table.sorted_by is not None and table.sorted_by.name == "val.accuracy"
    assert table.sorted_by.texts == ["99.00%", "95.00%", "90.00%", "80.00%", ""]
    named = build_table([folder / "c", folder / "a"])
    assert order(named) == "ca" and named.sorted_by is None


def test_any_column_sorts(folder) -> None:
    for sort, expected in (
        ("test.accuracy", "bcade"),
        ("loss", "dbcae"),
        ("lr", "deacb"),
        ("optim.lr", "deacb"),
        ("run", "abcde"),
    ):
        assert order(build_table([folder], sort)) == expected, sort
    assert order(build_table([folder], "optim.lr", reverse=True)) == "bcade"
    assert order(build_table([folder], "test.accuracy", reverse=True)) == "acbde", "rows without a value stay last"
    assert order(build_table([folder], "run", reverse=True)) == "edcba"
    with pytest.raises(UsageError, match="no column 'test.acuracy'. Did you mean 'test.accuracy'"):
        build_table([folder], "test.acuracy")


def test_only_settings_that_differ_are_columns(folder) -> None:
    names = {column.name for column in build_table([folder]).columns if column.is_setting}
    assert names == {"optim.lr", "model.name"}
    names = {column.name for column in build_table([folder / "a", folder / "b"]).columns if column.is_setting}
    assert names == {"optim.lr"}


def test_runs_are_filtered_by_state_name_and_setting(folder) -> None:
    for filters, expected in (
        (["state=finished"], "bca"),
        (["run=[ab]", "state=fin*"], "ba"),
        (["optim.lr=0.3"], "b"),
        (["model.name=cnn*"], "dbcae"),
    ):
        assert order(build_table([folder], filters=filters)) == expected
    for condition, message in (
        ("lr", "write KEY=VALUE"),
        ("lr=1", "no setting 'lr'. Did you mean optim.lr?"),
        ("zzz=1", "Give run, state or a setting"),
        ("state=lost", "none of 5 runs matches state=lost"),
    ):
        with pytest.raises(UsageError) as raised:
            build_table([folder], filters=[condition])
        assert message in str(raised.value)


def test_a_filter_is_read_like_a_setting(tmp_path) -> None:
    make_run(tmp_path / "a", "optim.lr=1e-3", "train.seed=1", "train.skip_steps=[1, 2]")
    make_run(tmp_path / "b", "optim.lr=0.3", "train.seed=2", "optim.lookahead={every: 5}")
    for condition, expected in (
        ("optim.lr=1e-3", "a"),
        ("train.num_epochs=10", "ab"),
        ("train.skip_steps=[1,2]", "a"),
        ("train.skip_steps=[1, 2]", "a"),
        ("optim.lookahead.every=5", "b"),
        ("optim.name=*", "ab"),
    ):
        assert sorted(order(build_table([tmp_path], filters=[condition]))) == list(expected), condition
    with pytest.raises(UsageError, match="none of 2 runs matches train.seed=true"):
        build_table([tmp_path], filters=["train.seed=true"])


def test_what_cannot_be_read_is_named_and_skipped(folder) -> None:
    (folder / "a" / "config.yaml").write_bytes(b"\xff\xfe")
    (folder / "c" / "config.yaml").write_text("optim: {lr: [1]}\n")
    table = build_table([folder])
    assert order(table) == "dbe"
    assert [sentence.split(":")[0] for sentence in table.skipped] == ["skipped a", "skipped c"]
    assert "must be UTF-8" in table.skipped[0] and "optim.lr" in table.skipped[1]
    with pytest.raises(MissingInputError, match=r"no run to show.\nskipped a: "):
        build_table([folder / "a", folder / "c"])


def test_if_all_runs_are_repetitions_they_are_shown_above_their_mean(tmp_path) -> None:
    for seed, accuracy in enumerate((0.8, 0.95, 0.9)):
        make_run(tmp_path / f"s{seed}", f"train.seed={seed}", accuracy=accuracy)
    table = build_table([tmp_path])
    assert [row.name for row in table.rows] == ["s1", "s2", "s0", "s (3 seeds)"] and table.is_one_group
    assert table.column("train.seed").texts == ["1", "2", "0", ""]
    assert table.column("test.accuracy").spreads[:3] == [None] * 3
    alone = build_table([tmp_path], group=False)
    assert [row.name for row in alone.rows] == ["s1", "s2", "s0"] and not alone.is_one_group
