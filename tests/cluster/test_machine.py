"""What is wrong with a machine is found and explained; machines that this one is not are made up of programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distcls.cluster import machine, network


def test_the_self_test_adds_over_two_processes():
    (finding,) = machine.self_test()
    assert (finding.status, finding.name) == ("ok", "gloo self-test"), finding
    assert finding.found.startswith("two processes: a sum of 16 MB took")


def test_a_process_that_hangs_ends_the_self_test(monkeypatch):
    monkeypatch.setattr(machine, "SELF_TEST_SECONDS", 0.2)
    (finding,) = machine.self_test()
    assert (finding.status, finding.found) == ("broken", "no answer in 0.2 s")


def program(folder: Path, name: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has a program of this name, which does this."""
    (folder / name).write_text(f"#!/bin/sh\n{output}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("output", "visible", "advice"),
    [
        ("echo failed; exit 9", None, "add --gpus all"),
        ("exec sleep 60", None, "The driver does not answer"),
        ("echo GPU 0: H100", "", "CUDA_VISIBLE_DEVICES hides them"),
        ("echo GPU 0: H100", None, "The driver may be too old|This torch is a CPU build"),
    ],
)
def test_gpus_that_torch_does_not_see_are_explained(tmp_path, monkeypatch, output, visible, advice):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(machine, "DRIVER_SECONDS", 0.5)
    program(tmp_path, "nvidia-smi", output, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (finding,) = machine.gpus()
    assert finding.status == "broken"
    assert any(words in finding.advice for words in advice.split("|")), finding.advice


def test_the_cores_of_a_container_are_counted(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "available_cpus", lambda: 2)
    (finding,) = machine.cores()
    assert (finding.status, finding.found) == ("ok", "2 of the machine's 64 may be used")


def test_a_name_that_means_loopback_is_answered_with_the_interface(monkeypatch):
    monkeypatch.setattr(network, "addresses", lambda: {"eth7": ["10.1.2.3", "fe80::1"]})
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    (finding,) = machine.interfaces()
    assert (finding.status, finding.found) == ("warning", "eth7 10.1.2.3")
    assert finding.advice.endswith("export GLOO_SOCKET_IFNAME=eth7.")


@pytest.mark.parametrize(
    ("docker", "status", "advice"),
    [
        ("echo Cannot connect. >&2; exit 1", "warning", "docker says: Cannot connect. Start its service"),
        ("exec sleep 60", "warning", "docker says: nothing, for 0.5 s. Start its service"),
        ("echo 28.2.2", "warning", "Containers get no GPU without NVIDIA's container toolkit"),
        ("echo 28.2.2", "ok", ""),
    ],
)
def test_docker_is_asked_and_not_only_looked_for(tmp_path, monkeypatch, docker, status, advice):
    monkeypatch.setattr(machine, "ENGINE_SECONDS", 0.5)
    monkeypatch.setattr(machine, "_is_container", lambda: False)
    program(tmp_path, "docker", docker, monkeypatch)
    program(tmp_path, "nvidia-smi", "", monkeypatch)
    if not advice:
        program(tmp_path, "nvidia-ctk", "", monkeypatch)
    (finding,) = machine.containers()
    assert finding.status == status and finding.advice.startswith(advice), finding


def test_a_machine_that_cannot_bind_processes_is_told_of_numactl(tmp_path, monkeypatch):
    for node in ("node0", "node1"):
        (tmp_path / node).mkdir()
    monkeypatch.setattr(machine, "NODES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.numa() == []  # no GPU to be near to
    program(tmp_path, "nvidia-smi", "", monkeypatch)
    (finding,) = machine.numa()
    assert (finding.status, finding.found) == ("warning", "2 nodes, but no numactl")
    assert finding.advice.endswith("apt install numactl.")
    program(tmp_path, "numactl", "", monkeypatch)
    assert [finding.status for finding in machine.numa()] == ["ok"]


def test_people_are_told_how_long_a_lost_machine_is_waited_for(monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda path: "15")
    assert "sudo sysctl -w net.ipv4.tcp_retries2=8" in machine.lost_machines()[0].found
    monkeypatch.setattr(machine, "_read", lambda path: "8")
    assert "2 minutes or less" in machine.lost_machines()[0].found


def test_a_folder_that_cannot_be_written_is_found(tmp_path):
    (finding,) = machine.disk(tmp_path / "not-there")
    assert finding.status == "broken" and "run.dir=DIR" in finding.advice
