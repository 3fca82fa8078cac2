"""launch/ngc.sh, ngc_login.sh and dgx.sh: what Docker itself understood of them, and where the NGC key went."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest
from machines import ENVIRONMENT, ROOT
from stub_engine import Engine

import distcls

LAUNCH = ROOT / "launch"
KEY = "nvapi-not-a-real-key"

docker = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker client here")


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))
    (tmp_path / "photos" / "rose").mkdir(parents=True)
    with Engine(tmp_path / "docker.sock") as started:
        yield started


def launch(name: str, *words: str, expect: int = 0, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [str(LAUNCH / name), *words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@docker
def test_docker_understands_what_pytorch_needs(engine, tmp_path):
    words = ["--data", "photos", "--name", "flowers", "run.device=cuda"]
    launch("ngc.sh", *words, expect=125, WANDB_API_KEY="secret")  # 125: the stub starts no container
    asked = engine.asked("/containers/create")
    host = asked["HostConfig"]
    assert (host["IpcMode"], host["Init"], host["AutoRemove"], asked["StopTimeout"]) == ("host", True, True, 180)
    assert {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]} == {
        "memlock": (-1, -1),
        "stack": (67108864, 67108864),
    }
    assert [(one["Count"], one["Capabilities"]) for one in host["DeviceRequests"]] == [(-1, [["gpu"]])]
    mounts = {mount["Target"]: (mount["Source"], mount.get("ReadOnly", False)) for mount in host["Mounts"]}
    assert mounts == {
        str(tmp_path): (str(tmp_path), True),
        str(tmp_path / "runs"): (str(tmp_path / "runs"), False),
        str(tmp_path / "cache/distcls"): (str(tmp_path / "cache/distcls"), False),
        str(tmp_path / "photos"): (str(tmp_path / "photos"), True),
    }
    assert asked["User"] == f"{os.getuid()}:{os.getgid()}" and asked["WorkingDir"] == str(tmp_path)
    assert {"HOME=/tmp", "TORCHINDUCTOR_CACHE_DIR=/tmp/inductor", "WANDB_API_KEY=secret"} <= set(asked["Env"])
    assert any(variable.startswith("USER=") for variable in asked["Env"])
    # The processes inside are given less time than Docker gives the container.
    data = ["--data", str(tmp_path / "photos")]
    assert asked["Cmd"] == ["--stop-timeout", "150", *data, "--name", "flowers", "run.device=cuda"]
    assert host["NetworkMode"] in ("default", "bridge") and not host.get("Privileged")


@docker
def test_a_dgx_trains_with_others_over_the_hosts_network(engine):
    variables = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    node = ["--nodes", "2", "--rank", "1", "--head", "10.0.0.1"]
    launch("dgx.sh", "dgx-h100", *node, "--name", "digits", expect=125, **variables)
    asked = engine.asked("/containers/create")
    assert asked["HostConfig"]["NetworkMode"] == "host"
    assert "NCCL_IB_HCA==mlx5_0,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_9,mlx5_10,mlx5_11" in asked["Env"]
    assert asked["Cmd"][2:] == ["--processes", "8", "--bind", "node", *node, "--name", "digits"]


@docker
def test_a_launcher_finds_its_own_words_among_the_others(engine, tmp_path):
    for file in ("x.yaml", "my photos/labels.csv", "elsewhere/y.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "here").mkdir()
    words = [
        "-c",
        "../elsewhere/y.yaml",
        "a=b",
        "--data=../my photos/labels.csv",
        "--gpus",
        "none",
        "--nodes=2",
        "--",
        "--print",
    ]
    done = subprocess.run([str(LAUNCH / "ngc.sh"), *words], cwd=tmp_path / "here", capture_output=True, timeout=60)
    assert done.returncode == 125
    asked = engine.asked("/containers/create")
    data = ["--data", str(tmp_path / "my photos/labels.csv")]
    assert asked["Cmd"][2:] == [*data, "-c", "../elsewhere/y.yaml", "a=b", "--nodes=2", "--", "--print"]
    assert {mount["Target"] for mount in asked["HostConfig"]["Mounts"] if mount.get("ReadOnly")} == {
        *[str(tmp_path / "here"), str(tmp_path / "my photos"), str(tmp_path / "elsewhere/y.yaml")]
    }
    assert asked["HostConfig"]["NetworkMode"] == "host"  # two machines cannot meet over the engine's own network


@docker
def test_an_image_that_was_never_built_is_not_asked_of_docker_hub(engine):
    engine.images = []
    error = launch("ngc.sh", "--gpus", "none", expect=125).stderr
    assert "No such image: distcls" in error and error.endswith("Where it was never built, add --build\n")
    assert [path for _, path, _ in engine.requests if "create" in path] == []


def test_to_print_makes_nothing_and_tells_the_build_what_it_builds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = launch("ngc.sh", "--build", "--print", "--engine", "docker").stdout.splitlines()
    assert list(tmp_path.iterdir()) == []
    assert f" --build-arg VERSION={distcls.__version__} --build-arg REVISION=" in lines[0]
    assert " --pull never distcls " in lines[1]


def test_a_dgx_without_a_container_starts_node_sh(tmp_path):
    (tmp_path / "numactl").symlink_to("/bin/true")
    variables = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "NCCL_IB_HCA": "mine"}
    variables["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    line = launch("dgx.sh", "--print", "dgx-a100", "--bare", "--name", "x", "--data", "photos", **variables).stdout
    assert "--nproc-per-node 8 --standalone" in line and line.endswith(
        "--numa-binding node -m distcls.train --name x --data photos run.device=cuda \n"
    )


@docker
@pytest.mark.parametrize("asked_at", ["file", "prompt"])
def test_the_key_goes_to_the_engine_and_nowhere_else(engine, tmp_path, asked_at):
    """A shim in front of docker writes down its words and its environment, which other users may read."""
    shim = tmp_path / "bin" / "docker"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\n{{ echo "$*"; env; }} >> {tmp_path}/seen\nexec {shutil.which("docker")} "$@"\n')
    shim.chmod(0o755)
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    if asked_at == "file":
        (tmp_path / "key").touch(0o600)
        (tmp_path / "key").write_text(f"{KEY}\n")
        shown = launch("ngc_login.sh", "--key-file", "key", PATH=path).stdout
    else:
        shown = typed([str(LAUNCH / "ngc_login.sh")], f"{KEY}\n", {**os.environ, "PATH": path})
    assert "Login Succeeded" in shown and KEY not in shown
    assert engine.asked("/auth") == {"username": "$oauthtoken", "password": KEY, "serveraddress": "nvcr.io"}
    assert [at for _, at, body in engine.requests if KEY.encode() in body] == ["/auth"]
    assert "--password-stdin" in (tmp_path / "seen").read_text() and KEY not in (tmp_path / "seen").read_text()


def typed(command: list[str], text: str, environment: dict[str, str]) -> str:
    """What a terminal shows when somebody runs the command and answers its question."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    shown = b""
    while b"NGC key: " not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, text.encode())
    try:
        while piece := os.read(terminal, 1024):
            shown += piece
    except OSError:  # what Linux answers when the other side is gone
        pass
    assert process.wait(20) == 0, shown
    return shown.decode()


MISTAKES = {
    "ngc.sh --data nowhere": "--data nowhere: there is no such folder, or .csv or .npz file",
    "ngc.sh a=b -c nowhere.yaml": "-c nowhere.yaml: there is no such file",
    "ngc.sh a=b --data": "--data needs a value (see --help)",
    "ngc.sh a=b --build=1": "--build=1: --build takes no value (see --help)",
    "ngc.sh --env NO_SUCH=secret": "--env NO_SUCH…: give the name alone",
    "ngc.sh --env NO_SUCH": "--env NO_SUCH: there is no such variable. Type export NO_SUCH=VALUE first",
    "ngc.sh --stop-timeout 20": "--stop-timeout 20: more than 30 seconds, or nothing is saved",
    "ngc.sh --runs elsewhere --print": "say where in it, such as run.dir=",
    "ngc_login.sh nvapi-1234": "a key is never given as a word",
    "ngc_login.sh --key-file open": "--key-file open: others may read it. chmod 600 open",
    "ngc_login.sh": "there is no terminal to ask for the key: --key-file FILE",
    "dgx.sh dgx-1": "dgx-1 is not a platform: they are dgx-a100 ",
    "dgx.sh --print": "nothing is not a platform: they are dgx-a100 ",
    "dgx.sh ../cloud/skypilot --print": "../cloud/skypilot is not a platform: they are dgx-a100 ",
    "dgx.sh dgx-h200 a=b --image mine --bare": "--bare is without a container: --image means nothing there",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_say_what_to_do(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "docker").symlink_to("/bin/true")
    (tmp_path / "open").write_text(KEY)
    (tmp_path / "open").chmod(0o644)
    name, *rest = words.split()
    assert MISTAKES[words] in launch(name, *rest, expect=2, PATH=f"{tmp_path}:{os.environ['PATH']}").stderr


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.sh")), ids=lambda file: file.name)
def test_help_fits_one_screen(file: Path):
    lines = launch(file.name, "--help").stdout.splitlines()
    assert len(lines) < 25 and max(map(len, lines)) <= 100


@pytest.mark.parametrize("file", sorted((LAUNCH / "platforms").glob("*.yaml")), ids=lambda file: file.stem)
def test_platforms_are_settings_of_a_machine(file: Path):
    import yaml

    settings = yaml.safe_load(file.read_text())
    assert settings["gpus"] >= 1 and settings["bind"] in ("node", "socket", "exclusive", "core-complex")
    assert all(name in ("gpus", "bind") or name.startswith(("NCCL_", "UCX_", "OMP_")) for name in settings)
