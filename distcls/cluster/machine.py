"""Checks of a machine for `distcls doctor`: one function for each thing a run needs, with advice on what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from distcls.cluster import network
from distcls.cluster.cpu import available_cpus

SELF_TEST_SECONDS = 60
"""Time limit of the self-test's two processes; on a busy machine their imports alone take 20 s."""

DRIVER_SECONDS = 30
"""Time limit for nvidia-smi to answer."""

ENGINE_SECONDS = 10
"""Time limit for a container engine to answer."""

NODES = Path("/sys/devices/system/node")
"""Lists the NUMA nodes on Linux: groups of cores, each with memory and devices near it."""


@dataclass(frozen=True)
class Finding:
    """One fact about this machine. `status` is ok, warning or broken; `advice` says what goes wrong and what to do."""

    name: str
    found: str
    status: str = "ok"
    advice: str = ""


def checks(folder: Path) -> list[Callable[[], list[Finding]]]:
    """Return all checks, in the order of their report. folder: where runs will be kept."""
    return [
        *[packages, gpus, cores, numa, memory, shared_memory, lambda: disk(folder), open_files, interfaces],
        *[lost_machines, slurm, containers, self_test],
    ]


def packages() -> list[Finding]:
    """Check that torch and torchvision fit each other; also report the version of Python."""
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    found = [Finding("python", platform.python_version()), Finding("torch", f"{torch.__version__}, built for {build}")]
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        advice = f"It does not fit torch {torch.__version__}: install both from one index, in one pip command."
        return [*found, Finding("torchvision", str(error).splitlines()[0], "broken", advice)]
    return [*found, Finding("torchvision", sys.modules["torchvision"].__version__)]


def gpus() -> list[Finding]:
    """Report the GPUs that torch sees. If the driver is here and torch sees none, say why."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        memory = sorted({f"{device.name}, {gigabytes(device.total_memory)}" for device in names})
        version = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[arg-type]
        return [Finding("GPUs", f"{len(names)} × {' and '.join(memory)}"), Finding("NCCL", version)]
    if torch.backends.mps.is_available():
        return [Finding("GPUs", "Apple's MPS")]
    if not shutil.which("nvidia-smi"):
        return [Finding("GPUs", "none: training runs on the CPU")]
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=DRIVER_SECONDS)
        answers = done.returncode == 0 and "GPU" in done.stdout
    except subprocess.TimeoutExpired:
        answers = False
    if not answers:
        advice = "The driver does not answer: does `nvidia-smi` work? In a container, add --gpus all."
    elif os.environ.get("CUDA_VISIBLE_DEVICES", "set") in ("", "-1"):
        advice = "CUDA_VISIBLE_DEVICES hides them: unset it."
    elif not torch.version.cuda:
        advice = "This torch is a CPU build: install one for CUDA (https://pytorch.org/get-started/locally)."
    else:
        advice = f"The driver may be too old for CUDA {torch.version.cuda}: see the first lines of `nvidia-smi`."
    return [Finding("GPUs", "torch sees none, though nvidia-smi is here", "broken", advice)]


def cores() -> list[Finding]:
    """Count the CPU cores that this process may use."""
    there, usable = os.cpu_count() or 1, available_cpus()
    return [Finding("cores", str(there) if usable == there else f"{usable} of the machine's {there} may be used")]


def numa() -> list[Finding]:
    """Check that processes can be bound to the cores near their GPU, for which torchrun calls numactl."""
    nodes = len(list(NODES.glob("node[0-9]*")))
    if nodes < 2 or not shutil.which("nvidia-smi"):
        return []
    if shutil.which("numactl"):
        return [Finding("NUMA", f"{nodes} nodes, and numactl")]
    advice = "launch/node.sh --bind cannot bind processes, so they reach their GPU more slowly: apt install numactl."
    return [Finding("NUMA", f"{nodes} nodes, but no numactl", "warning", advice)]


def memory_size() -> tuple[int, int]:
    """Return the bytes of main memory that are free, and all that this process may use."""
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    limit = _read("/sys/fs/cgroup/memory.max")
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        free = min(free, total - int(_read("/sys/fs/cgroup/memory.current") or 0))
    return free, total


def memory() -> list[Finding]:
    """Report the main memory that is free for a run."""
    free, total = memory_size()
    found = f"{gigabytes(free)} free of {gigabytes(total)}"
    if free < 4e9:
        advice = "Keep fewer decoded images in memory (data.cache='500 MB'), and use fewer data.workers."
        return [Finding("memory", found, "warning", advice)]
    return [Finding("memory", found)]


def shared_memory() -> list[Finding]:
    """Check the size of /dev/shm, where loader workers pass on images and NCCL exchanges data within a machine."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return []
    free = shutil.disk_usage(folder).free
    if free < 1e9:
        advice = "Loader workers and NCCL will die of a bus error: docker run --ipc=host (or --shm-size=8g)."
        return [Finding("/dev/shm", f"{gigabytes(free)} free", "broken", advice)]
    return [Finding("/dev/shm", f"{gigabytes(free)} free")]


def disk(folder: Path) -> list[Finding]:
    """Measure space and speed where runs will be kept, by writing and removing 64 MB."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.monotonic()
            for _ in range(16):
                file.write(os.urandom(4_000_000))
            os.fsync(file.fileno())
            speed = 64 / (time.monotonic() - began)
    except OSError as error:
        advice = "Runs need a folder that you can write to: run.dir=DIR."
        return [Finding("disk", f"{folder.absolute()}: {error.strerror}", "broken", advice)]
    free = shutil.disk_usage(folder).free
    found = f"{folder.absolute()}: {gigabytes(free)} free, {speed:,.0f} MB/s written"
    if free < 5e9:
        return [Finding("disk", found, "warning", "A run keeps a few checkpoints, each 2 to 4 times the model's size.")]
    if speed < 30:
        return [Finding("disk", found, "warning", "Saving is slow: save less, train.checkpoint_every='5 epochs'.")]
    return [Finding("disk", found)]


def open_files() -> list[Finding]:
    """Check how many files a process may open: loader workers pass images as files."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < 1024:
        advice = f"Loader workers will fail with 'too many open files': ulimit -n {most}."
        return [Finding("open files", f"at most {limit}", "warning", advice)]
    return [Finding("open files", f"at most {limit}")]


def interfaces() -> list[Finding]:
    """Check that this machine's name leads to one of its network interfaces, as gloo assumes."""
    there = {name: [ip for ip in ips if ":" not in ip] or ips for name, ips in network.addresses().items()}
    found = ", ".join(f"{name} {' '.join(ips)}" for name, ips in there.items()) or "none"
    name = socket.gethostname()
    try:
        ips = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        ips = set()
    if there and not any(ip in known for ip in ips for known in there.values()):
        means = f"means {' '.join(sorted(ips))}" if ips else "is unknown"
        advice = (
            f"This machine's name, {name}, {means} here, so several machines only find each other if "
            "you name the interface. launch/node.sh does; otherwise export GLOO_SOCKET_IFNAME="
            f"{' or '.join(there)}."
        )
        return [Finding("network", found, "warning", advice)]
    return [Finding("network", found)]


def lost_machines() -> list[Finding]:
    """Report how long a machine that vanishes goes unnoticed: as long as TCP keeps retransmitting."""
    retries = _read("/proc/sys/net/ipv4/tcp_retries2")
    if not retries.isdigit():
        return []
    if int(retries) > 8:
        found = "noticed after some 15 minutes; after 2 with: sudo sysctl -w net.ipv4.tcp_retries2=8"
        return [Finding("lost machines", found)]  # no warning: most runs are on one machine
    return [Finding("lost machines", f"noticed after 2 minutes or less (tcp_retries2={retries})")]


def slurm() -> list[Finding]:
    """Report whether jobs can be submitted from here."""
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        return [Finding("Slurm", f"inside job {job}")]
    return [Finding("Slurm", "sbatch is here" if shutil.which("sbatch") else "no")]


def containers() -> list[Finding]:
    """Check the container engines: that docker's service answers, and that containers get GPUs."""
    inside = _is_container()
    there = [name for name in ("docker", "podman", "apptainer", "enroot") if shutil.which(name)]
    found = ", ".join(["inside one"] * inside + there) or "no"
    problem = _problem_of_docker() if "docker" in there else ""
    if problem:
        advice = (
            f"docker says: {problem} Start its service (sudo systemctl start docker), or join its group "
            "(sudo usermod -aG docker $USER, then log in again)."
        )
        return [Finding("containers", found, "warning", advice)]
    toolkit = any(shutil.which(name) for name in ("nvidia-ctk", "nvidia-container-runtime-hook"))
    if {"docker", "podman"} & set(there) and shutil.which("nvidia-smi") and not toolkit and not inside:
        advice = (
            "Containers get no GPU without NVIDIA's container toolkit: see "
            "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit."
        )
        return [Finding("containers", found, "warning", advice)]
    return [Finding("containers", found)]


def _is_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _problem_of_docker() -> str:
    """Return docker's complaint if its service does not answer, else nothing: without the service nothing starts."""
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ENGINE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"nothing, for {ENGINE_SECONDS} s."
    if done.returncode == 0:
        return ""
    return (done.stderr.strip() or "nothing.").splitlines()[-1]


def self_test() -> list[Finding]:
    """Let two processes add numbers over each backend that a run would use here, within SELF_TEST_SECONDS."""
    backends = ["gloo", "nccl"] if torch.cuda.device_count() > 1 else ["gloo"]
    return [_all_reduce_over(backend) for backend in backends]


def _all_reduce_over(backend: str) -> Finding:
    name = f"{backend} self-test"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(2):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {**os.environ, **{key: str(value) for key, value in numbers.items()}, "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, "-m", "distcls.cluster.all_reduce", backend, str(SELF_TEST_SECONDS // 2)]
        output = subprocess.PIPE
        ranks.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True))
    end, outputs = time.monotonic() + SELF_TEST_SECONDS, []
    for process in ranks:
        try:
            outputs.append(process.communicate(timeout=max(end - time.monotonic(), 0.1))[0])
        except subprocess.TimeoutExpired:
            process.kill()
            outputs.append(f"no answer in {SELF_TEST_SECONDS} s")
            process.communicate()
    if all(process.returncode == 0 for process in ranks):
        return Finding(name, f"two processes: {outputs[0].strip().splitlines()[-1]}")
    problem = (outputs[0].strip() or outputs[1].strip() or "they ended without a message").splitlines()[-1]
    advice = (
        "Runs of several processes will not start. Is a firewall, a VPN or a variable such as "
        f"{backend.upper()}_SOCKET_IFNAME in the way?"
    )
    return Finding(name, problem, "broken", advice)


def gigabytes(size: float) -> str:
    """Return a size in bytes as text, such as 4.3 GB."""
    return f"{size / 1e9:,.1f} GB"


def _read(path: str) -> str:
    """Return the text of a kernel file, or nothing if there is no such file."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
