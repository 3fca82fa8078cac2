"""The list of an audit can be given to data.exclude, and nobody's edited list is lost."""

from __future__ import annotations

from pathlib import Path

from distcls.data.exclusion import read_names
from distcls.sweeps.audit.findings import Finding, write_findings


def test_a_list_that_somebody_may_have_edited_is_never_overwritten(tmp_path: Path) -> None:
    one, other = (Finding(name, "cat", "dog", 0.9, "label error") for name in ("a.jpg", "b.jpg"))
    path = tmp_path / "audit.csv"
    assert write_findings([one, other], path) == path == write_findings([one, other], path)
    assert read_names(str(path)) == ["a.jpg", "b.jpg"]
    edited = path.read_text().replace("a.jpg,cat,dog,0.9,label error\n", "")
    path.write_text(edited)
    assert write_findings([one, other], path) == tmp_path / "audit-2.csv"
    assert path.read_text() == edited and read_names(str(path)) == ["b.jpg"]
