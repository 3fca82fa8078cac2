"""Text files are whole, and names of files that are not UTF-8 neither stop a run nor get lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

from distcls.files.atomic import json_text, printable, write_text

NAME = os.fsdecode(b"caf\xe9.jpg")


def test_a_text_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("first", "second\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_name_is_written_as_it_is_on_the_disk(tmp_path: Path) -> None:
    write_text(tmp_path / "names.txt", NAME)
    assert (tmp_path / "names.txt").read_bytes() == b"caf\xe9.jpg"


def test_json_holds_any_name_and_leaves_others_readable() -> None:
    text = json_text([NAME, "猫"])
    assert json.loads(text.encode().decode()) == [NAME, "猫"] and "猫" in text


def test_what_is_shown_can_be_printed() -> None:
    assert printable(NAME) == "caf?.jpg" and printable("猫") == "猫"
