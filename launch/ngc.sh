#!/usr/bin/env bash
# Trains in a container, with the flags that PyTorch needs there, and paths that are the same inside as outside.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

help() {
    cat <<'END'
usage: launch/ngc.sh [options] [words of launch/node.sh and distcls train]

Trains in a container on NVIDIA's PyTorch image. The current folder and the data are mounted
read-only, the run folders and ~/.cache/distcls for writing, all at the paths that they have
outside. The files belong to you.

  --build             build the image first (Dockerfile; again after a change of its dependencies)
  --base IMAGE        image to build on (nvcr.io/nvidia/pytorch:25.12-py3)
  --image NAME        image to run (distcls)
  --data DIR          folder of images, as for distcls train
  --runs DIR          where run folders lie (./runs)
  --gpus LIST         all, none, or numbers such as 0,1 (all)
  --host-network      for several machines: the host's network, and InfiniBand where there is some
  --env NAME          hand over this environment variable; its value never shows in the command
  --stop-timeout SEC  time to save in after docker stop, before the container is killed (180)
  --engine NAME       docker or podman (the first that is there)
  --print             show the commands instead of running them

  launch/ngc.sh --build -c configs/digits.yaml
  launch/ngc.sh --data photos --name flowers train.num_epochs=40
END
}

fail() {
    printf 'ngc.sh: error: %s\n' "$1" >&2
    exit 2
}

base=nvcr.io/nvidia/pytorch:25.12-py3 image=distcls data='' runs=$PWD/runs gpus=all stop_timeout=180
build='' host_network='' engine='' print='' env=(WANDB_API_KEY HF_TOKEN MLFLOW_TRACKING_URI)
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) help && exit ;;
    --build) build=1 && shift && continue ;;
    --host-network) host_network=1 && shift && continue ;;
    --print) print=1 && shift && continue ;;
    --base | --image | --data | --runs | --gpus | --env | --stop-timeout | --engine)
        [ $# -gt 1 ] || fail "$1 needs a value (see --help)" ;;
    --) shift && break ;;
    *) break ;;
    esac
    case $1 in
    --base) base=$2 ;;
    --image) image=$2 ;;
    --data) data=$2 ;;
    --runs) runs=$2 ;;
    --gpus) gpus=$2 ;;
    --env) env+=("$2") ;;
    --stop-timeout) stop_timeout=$2 ;;
    --engine) engine=$2 ;;
    esac
    shift 2
done
[ "$stop_timeout" -gt 30 ] 2>/dev/null || fail "--stop-timeout $stop_timeout: more than 30 seconds, or nothing is saved"

if [ -z "$engine" ]; then
    engine=$(command -v docker || command -v podman) || fail "neither docker nor podman is on PATH"
    engine=${engine##*/}
fi
if [ -n "$data" ]; then
    [ -d "$data" ] || fail "--data $data: there is no such folder"
    data=$(cd "$data" && pwd)
    set -- "$@" --data "$data"
fi
# The mount points must be there: the engine would make them as root, or fail below a read-only mount.
mkdir -p "$runs" || fail "--runs $runs: it cannot be made"
runs=$(cd "$runs" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}
mkdir -p "$cache/distcls" || fail "$cache/distcls cannot be made: decoded images are kept there (XDG_CACHE_HOME)"

# NVIDIA's flags: https://docs.nvidia.com/deeplearning/frameworks/user-guide. Under a user id that the image
# does not know, Python finds no name and no home unless it is told.
options=(--rm --init --ipc=host --ulimit memlock=-1 --ulimit stack=67108864 --stop-timeout "$stop_timeout"
    --user "$(id -u):$(id -g)" --env "USER=$(id -un)" --env HOME=/tmp --env TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
    --env "XDG_CACHE_HOME=$cache" --mount "type=bind,source=$cache/distcls,target=$cache/distcls" --workdir "$PWD"
    --mount "type=bind,source=$PWD,target=$PWD,readonly" --mount "type=bind,source=$runs,target=$runs")
[ -z "$data" ] || options+=(--mount "type=bind,source=$data,target=$data,readonly")
[ ! -t 0 ] || [ ! -t 1 ] || options+=(--interactive --tty)
case $engine,$gpus in
*,none) ;;
podman,all) options+=(--device nvidia.com/gpu=all) ;;
podman,*) for gpu in ${gpus//,/ }; do options+=(--device "nvidia.com/gpu=$gpu"); done ;;
*,all) options+=(--gpus all) ;;
*) options+=(--gpus "\"device=$gpus\"") ;;
esac
[ "$engine" != podman ] || [ "$(id -u)" -eq 0 ] || options+=(--userns=keep-id)
if [ -n "$host_network" ]; then
    options+=(--network host)
    [ ! -d /dev/infiniband ] || options+=(--device /dev/infiniband --cap-add IPC_LOCK)
fi
for name in "${env[@]}"; do
    [ -z "${!name+set}" ] || options+=(--env "$name")
done
# Where runs are not below the current folder, `runs/NAME` would lie in what is mounted read-only.
[ "$runs" = "$PWD/runs" ] || case " $* " in *" run.dir="*) ;; *)
    fail "--runs $runs: say where in it, such as run.dir=$runs/NAME" ;;
esac

if [ -n "$build" ]; then
    build=("$engine" build --build-arg "BASE_IMAGE=$base" --tag "$image" "$(dirname "$here")")
    if [ -n "$print" ]; then printf '%q ' "${build[@]}" && echo; else "${build[@]}"; fi
fi
run=("$engine" run "${options[@]}" "$image" --stop-timeout $((stop_timeout - 30)) "$@")
if [ -n "$print" ]; then printf '%q ' "${run[@]}" && echo; else exec "${run[@]}"; fi
