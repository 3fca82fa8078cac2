"""The lock files of the container image hold what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED_FOR = PROJECT["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
FILES = {name: (ROOT / "requirements" / name).read_text() for name in ("torch.lock", "distcls.lock", "serve.lock")}
LOCKED = {
    file: dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE)) for file, text in FILES.items()
}  # where several Pythons need several versions, the last


@pytest.mark.parametrize("line", ASKED_FOR)
def test_what_is_asked_for_is_locked(line: str) -> None:
    requirement = Requirement(line)
    file = "torch.lock" if requirement.name in ("torch", "torchvision") else "distcls.lock"
    version = LOCKED[file].get(requirement.name)
    assert version and requirement.specifier.contains(version), "run requirements/lock.sh"


@pytest.mark.parametrize("line", [*ASKED_FOR, *EXTRAS["export"], *EXTRAS.get("serve", [])])
def test_what_a_service_needs_is_locked(line: str) -> None:
    requirement = Requirement(line)
    version = {**LOCKED["serve.lock"], **LOCKED["torch.lock"]}.get(requirement.name)
    assert version and requirement.specifier.contains(version), "run requirements/lock.sh"


def test_the_lock_beside_a_base_images_torch_has_no_torch() -> None:
    assert not [
        name
        for name in {**LOCKED["distcls.lock"], **LOCKED["serve.lock"]}
        if re.match(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)$", name)
    ]
    assert all("--hash=sha256:" in text for text in FILES.values())
