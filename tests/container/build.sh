#!/usr/bin/env bash
# Really builds the Dockerfile, on a Debian made by debootstrap, trains in the image, and shows that the build fails
# where it would replace the base's torch. Needs root, buildah, debootstrap and uv; takes a few minutes and 3 GB.
#
#   tests/container/build.sh install      # buildah, podman and debootstrap of Debian; needs root, once
#   tests/container/build.sh [FOLDER]     # FOLDER keeps Debian and torch for the next time
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" = install ]; then
    ! type buildah podman runc debootstrap catatonit >/dev/null 2>&1 || exit 0
    apt-get -qq update </dev/null >/dev/null
    DEBIAN_FRONTEND=noninteractive exec apt-get -qq -y -o DPkg::Lock::Timeout=120 \
        install --no-install-recommends buildah podman catatonit runc debootstrap </dev/null >/dev/null
fi
for tool in buildah debootstrap uv; do
    command -v "$tool" >/dev/null || { echo "tests/container: SKIPPED, there is no $tool here" >&2; exit 0; }
done
[ "$(id -u)" -eq 0 ] || { echo "tests/container: SKIPPED, it needs root" >&2; exit 0; }

work=${1:-}
[ -n "$work" ] || work=$(mktemp -d)
rm -rf "$work/runs" "$work/bad"
mkdir -p "$work/runs" "$work/fake" "$work/bad" && chmod 777 "$work/runs"
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-overlay}")
export BUILDAH_ISOLATION=chroot
trap 'buildah "${storage[@]}" rm --all >/dev/null 2>&1; [ -n "${1:-}" ] || rm -rf "$work"' EXIT
say() { printf '\n== %s\n' "$1"; }
fail() { printf 'tests/container: FAILED: %s\n' "$1" >&2 && exit 1; }

say "a base with Python and torch"
[ -e "$work/debian/usr/bin/pip" ] || debootstrap --variant=minbase \
    --include=python3,python3-pip,ca-certificates bookworm "$work/debian" http://deb.debian.org/debian >/dev/null
[ -e "$work/torch/torchvision" ] || uv pip install --quiet --python-version 3.11 --target "$work/torch" torch torchvision
base=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" add --quiet "$base" "$work/debian" / >/dev/null
# torch is mounted, because copying its gigabytes would take longer than all the rest.
buildah "${storage[@]}" run "$base" -- sh -c 'echo /opt/torch >/usr/lib/python3/dist-packages/torch.pth'
buildah "${storage[@]}" commit --quiet --rm "$base" base >/dev/null
mounts=(--volume "$work/torch:/opt/torch:ro" --volume "$work/fake:/opt/fake:ro"
    --volume "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}:/etc/ssl/certs/ca-certificates.crt:ro")
build() { buildah "${storage[@]}" build --format docker --layers=false "${mounts[@]}" --build-arg BASE_IMAGE=localhost/base "$@"; }

say "the image"
build --quiet --tag distcls --build-arg VERSION=1.2.3 . >/dev/null
buildah "${storage[@]}" inspect --type image distcls >"$work/image.json"
python3 - "$work/image.json" <<'END'
import json, re, sys
image = json.load(open(sys.argv[1]))
config = image["Docker"]["config"]
assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"]), config["User"]
assert config["Entrypoint"] == ["/opt/distcls/launch/node.sh"], config["Entrypoint"]
assert config["Labels"]["org.opencontainers.image.version"] == "1.2.3" and "Healthcheck" not in config
END

say "the image that serves"
build --quiet --tag distcls-serve --target serve --build-arg SERVE_BASE=localhost/base . >/dev/null
buildah "${storage[@]}" inspect --type image distcls-serve >"$work/image.json"
python3 - "$work/image.json" <<'END'
import json, re, sys
config = json.load(open(sys.argv[1]))["Docker"]["config"]
assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"]), config["User"]
assert config["Entrypoint"] == ["/opt/distcls/launch/serve/serve.sh"] and "8000/tcp" in config["ExposedPorts"]
assert "/healthz" in config["Healthcheck"]["Test"][-1] and config["StopSignal"] == "SIGTERM", config
END

say "training in it, as a user that it does not know"
inside=$(buildah "${storage[@]}" from distcls)
buildah "${storage[@]}" run --user 12345:54321 "${mounts[@]}" --volume "$work/runs:/workspace/runs" "$inside" -- \
    /opt/distcls/launch/node.sh --processes 2 -c /opt/distcls/configs/digits.yaml train.num_epochs=2 train.num_threads=1
grep -q '"world_size": 2' "$work/runs/digits/env.json" || fail "it was not trained by two processes"
grep -q '"finished"' "$work/runs/digits/status.json" || fail "training did not finish"
[ "$(stat -c %u:%g "$work/runs/digits/status.json")" = 12345:54321 ] || fail "the run belongs to somebody else"
buildah "${storage[@]}" run "${mounts[@]}" "$inside" -- distcls --version

say "launch/ngc.sh with podman: podman stop saves, and the exit code says so"
if command -v podman >/dev/null; then
    mkdir -p "$work/bin" "$work/folder"
    rm -rf "$work/folder/runs"
    cat >"$work/containers.conf" <<END
[engine]
runtime="runc"
cgroup_manager="cgroupfs"
events_logger="none"
[containers]
volumes=["$work/torch:/opt/torch:ro"]
END
    printf '[storage]\ndriver="overlay"\ngraphroot="%s"\nrunroot="%s"\n' "$work/storage" "$work/run" >"$work/storage.conf"
    export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
    # A machine of tests may not raise limits, not even to what PyTorch wants to lock in memory.
    cat >"$work/bin/podman" <<END
#!/usr/bin/env bash
words=("\${@/#memlock=-1/nofile=1024:1024}")
exec $(command -v podman) "\${words[0]}" --ulimit nproc=4096:4096 "\${words[@]:1}"
END
    chmod +x "$work/bin/podman"
    launcher=$PWD/launch/ngc.sh
    (cd "$work/folder" && PATH="$work/bin:$PATH" exec "$launcher" --engine podman --gpus none --image localhost/distcls \
        --processes 2 train.num_epochs=5000 train.num_threads=1 run.trackers=[]) >"$work/podman.log" 2>&1 &
    started=$!
    for _ in $(seq 240); do
        sleep 0.5
        ! grep -qs '"running", "step": [1-9]' "$work/folder/runs/digits/status.json" || break
    done
    podman stop --latest >/dev/null || fail "podman stop: $(tail "$work/podman.log")"
    wait "$started" && code=0 || code=$?
    [ "$code" -eq 75 ] || fail "exit code $code: $(tail "$work/podman.log")"
    grep '"preempted"' "$work/folder/runs/digits/status.json" || fail "the run was not saved"

    say "the image that serves, which may write nothing outside of /tmp: podman stop ends it with 0"
    "$work/bin/podman" run --detach --name served --ulimit nofile=1024:1024 --pull never --read-only --read-only-tmpfs=false --tmpfs /tmp \
        --health-interval disable --volume "$work/runs/digits/model:/model:ro" localhost/distcls-serve --name digits >/dev/null
    for _ in $(seq 120); do
        ! podman healthcheck run served >/dev/null 2>&1 || break
        sleep 1
    done
    podman healthcheck run served || fail "it is not healthy: $(podman logs served 2>&1 | tail)"
    [ "$(podman exec served id -u)" = 10001 ] || fail "it runs as somebody else"
    ! podman exec served touch /opt/distcls/x 2>/dev/null || fail "its file system can be written to"
    podman exec served python3 -c 'import io, urllib.request as r; from PIL import Image
file = io.BytesIO(); Image.new("RGB", (8, 8)).save(file, "PNG")
asked = r.Request("http://127.0.0.1:8000/predict", file.getvalue(), {"Content-Type": "image/png"})
print(r.urlopen(asked, timeout=20).read().decode())' | grep '"prediction"' || fail "no prediction"
    podman stop --time 30 served >/dev/null
    [ "$(podman inspect --format '{{.State.ExitCode}}' served)" = 0 ] || fail "it did not end with 0: $(podman logs served 2>&1)"
    podman rm served >/dev/null
    unset CONTAINERS_CONF CONTAINERS_STORAGE_CONF # buildah would mount torch too
else
    echo "tests/container: SKIPPED launch/ngc.sh in a container, there is no podman here" >&2
fi

say "only what is allowed enters the build"
cp -r Dockerfile .dockerignore configs distcls launch requirements tests "$work/bad"
touch "$work/bad/.env" "$work/bad/key"
printf 'FROM localhost/base\nCOPY . /context\n' >"$work/everything"
build --quiet --tag everything --file "$work/everything" "$work/bad" >/dev/null
seen=$(buildah "${storage[@]}" run "$(buildah "${storage[@]}" from everything)" -- ls -A /context | sort | tr '\n' ' ')
[ "$seen" = "configs distcls launch requirements " ] || fail "the engine was given: $seen"

say "a base whose torch is an alpha version, as NVIDIA's: it is left alone"
newer=$(python3 - "$work/fake" <<'END'
import hashlib, sys, zipfile
def wheel(name, version):
    path = f"{sys.argv[1]}/{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/__init__.py", f"__version__ = '{version}'\n")
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{name}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return hashlib.sha256(open(path, "rb").read()).hexdigest()
wheel("torch", "2.10.0a0+nv25.12")
wheel("torchvision", "0.25.0a0+nv25.12")
print(wheel("torch", "99"))
END
)
mounts=("${mounts[@]:2}") # from here on without the real torch
alpha=$(buildah "${storage[@]}" from base)
buildah "${storage[@]}" run "${mounts[@]}" "$alpha" -- pip install --quiet --break-system-packages --root-user-action=ignore \
    --no-index --find-links /opt/fake torch==2.10.0a0+nv25.12 torchvision==0.25.0a0+nv25.12
buildah "${storage[@]}" commit --quiet --rm "$alpha" base >/dev/null
build --quiet --tag alpha . >/dev/null
buildah "${storage[@]}" run "$(buildah "${storage[@]}" from alpha)" -- python3 -c 'import torch; print(torch.__version__)'

say "a lock that replaces it fails the build"
printf -- '--find-links /opt/fake\ntorch==99 --hash=sha256:%s\n' "$newer" >"$work/bad/requirements/distcls.lock"
if build --tag bad "$work/bad" >"$work/bad.log" 2>&1; then fail "the build went through"; fi
grep "^The base image's torch was replaced" "$work/bad.log" || fail "it failed for another reason: $(tail -n 3 "$work/bad.log")"
say "all is well"
