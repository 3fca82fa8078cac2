"""Tables stay aligned and say what each number is, whatever was measured."""

from __future__ import annotations

from rich.cells import cell_len

from distcls.terminal.tables import EvaluationTable, class_table, full_table, summary_table

ROW = {
    **{"epoch": 1.0, "step": 20, "train_loss": 0.5, "train_accuracy": 0.8, "loss": 0.4, "accuracy": 0.9},
    **{"macro_f1": 0.88, "ece": 0.05, "top5": 0.99},
}


def test_train_and_val_stand_side_by_side():
    table = EvaluationTable(ROW, 200)
    titles = "epoch step train loss val loss train accuracy val accuracy top-5 macro F1 ECE best time"
    assert " ".join(table.head().split()) == titles
    of_row = ["1.0", "20", "0.5000", "0.4000", "80.00%", "90.00%", "99.00%", "0.8800", "0.0500"]
    assert table.line(ROW).split() == of_row
    assert len(table.line({**ROW, "train_loss": None})) == len(table.head())


def test_what_training_does_not_measure_has_no_column():
    """As the accuracy on mixtures of images."""
    assert "train" not in EvaluationTable({**ROW, "train_loss": None, "train_accuracy": None}, 200).head()
    head = EvaluationTable({**ROW, "train_accuracy": None}, 200).head()
    assert "train loss" in head and "train accuracy" not in head


def test_a_narrow_terminal_keeps_loss_and_accuracy_of_val_to_the_last():
    for width in (80, 60, 45):
        head = EvaluationTable(ROW, width).head()
        assert len(head) <= width and "val loss" in head and "val accuracy" in head and "best" in head
    assert "train accuracy" in EvaluationTable(ROW, 80).head()


def test_long_numbers_keep_to_their_column():
    table = EvaluationTable({**ROW, "loss": 1.0}, 200)
    assert len(table.line({**ROW, "loss": 2.6e23, "train_loss": 12345678.9})) == len(table.head())
    assert table.line({**ROW, "epoch": 1200.0}).split()[0] == "1200.0"


def test_top5_where_it_says_something():
    """Of five classes it is always 1, whichever version wrote the numbers."""
    few, many = {"cat": {"count": 1}}, {str(i): {"count": 1} for i in range(6)}
    for by_class, shown in ((few, False), (many, True)):
        row = {"accuracy": 0.9, "top5": 1.0, "by_class": by_class}
        assert ("top-5" in summary_table({"test": row})[0]) == shown
        assert ("top-5" in EvaluationTable(row, 200).head()) == shown
        assert any("top-5" in line for line in full_table({"test": row})) == shown
        old = {"accuracy": 0.9, "top5": 1.0, "accuracy_by_class": [0.9] * len(by_class)}
        assert ("top-5" in summary_table({"test": old})[0]) == shown
    assert "top-5" in EvaluationTable({"top5": 0.9}, 200).head()


def test_classes_of_any_name_are_aligned():
    values = {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "count": 7}
    names = ["猫の写真", "cat", "caf\udce9", "a name that is much too long for a table of classes", ""]
    title, lines = class_table({name: values for name in names} | {"absent": {**values, "count": 0}})
    assert title == "by class" and len(lines) == 6
    assert len({cell_len(line) for line in lines}) == 1
    "\n".join(lines).encode()


def test_the_worst_classes_come_first():
    by_class = {f"c{i}": {"precision": 0.5, "recall": 0.5, "f1": 1 - i / 1500, "count": 3} for i in range(1200)}
    title, lines = class_table(by_class)
    assert title == "the 10 worst of 1,200 classes, by F1"
    assert [line.split()[0] for line in lines[1:]] == [f"c{i}" for i in range(1199, 1189, -1)]
    assert class_table({}) == ("by class", [])
