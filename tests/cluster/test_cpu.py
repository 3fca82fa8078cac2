"""What the kernel says of the CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from distcls.cluster import cpu


@pytest.fixture
def cpu_with(monkeypatch, tmp_path):
    """A CPU with these flags in /proc/cpuinfo; None for a machine without that file."""

    def pretend(flags: str | None) -> None:
        text = f"processor\t: 0\nmodel name\t: A Xeon: 2 cores\nflags\t\t: fpu {flags}\nbugs\t\t: bf16\n"
        if flags is not None:
            (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")  # of tests/conftest.py

    return pretend


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2", False), ("avx512_bf16", True), ("amx_tile amx_bf16", True), (None, False)]
)
def test_bf16_is_a_flag(cpu_with, flags, expected):
    cpu_with(flags)
    assert cpu.has_bf16() == expected


def test_an_arm_cpu_calls_its_flags_features(cpu_with):
    cpu_with("")
    cpu.CPU_INFO.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert cpu.has_bf16() and cpu.cpu_name() == platform.machine()


@pytest.mark.parametrize(("isa", "expected"), [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_AMX", True)])
def test_a_cpu_that_may_not_use_its_bf16_has_none(cpu_with, monkeypatch, isa, expected):
    cpu_with("avx512_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert cpu.has_bf16() == expected


def test_the_name_is_that_of_the_model(cpu_with):
    cpu_with("avx2")
    assert cpu.cpu_name() == "A Xeon: 2 cores"


@pytest.mark.parametrize(
    ("quota", "allowed", "expected"),
    [
        ("250000 100000", 64, 2),
        ("50000 100000", 64, 1),
        ("max 100000", 64, 64),
        ("800000 100000", 4, 4),
        (None, 64, 64),
    ],
)
def test_a_container_may_use_what_its_quota_allows(monkeypatch, tmp_path, quota, allowed, expected):
    monkeypatch.setattr(cpu, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)), raising=False)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cpu.available_cpus() == expected


@pytest.mark.parametrize(
    ("own", "starters", "num_processes", "expected"),
    [
        (64, 64, 1, 64),
        (64, 64, 4, 16),
        (2, 2, 2, 1),  # a container
        (32, 64, 4, 16),  # bound to half of the machine, with one other
        (4, 64, 8, 4),  # bound to cores of its own
        (1, 64, 1, 1),  # taskset
        (2, 2, 3, 1),
    ],
)
def test_processes_share_the_cores_of_the_one_that_started_them(monkeypatch, own, starters, num_processes, expected):
    monkeypatch.setattr(cpu, "available_cpus", lambda process=0: starters if process else own)
    assert cpu.share_of_cpus(num_processes) == expected


def test_the_cores_of_a_process_that_has_ended_are_those_of_the_machine():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert cpu.available_cpus(ended.pid) >= cpu.available_cpus()
