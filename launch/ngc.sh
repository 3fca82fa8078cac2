#!/usr/bin/env bash
# Trains in a container, with the flags that PyTorch needs there, and paths that are the same inside as outside.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/words.bash
. "$here/words.bash"

help() {
    cat <<'END'
usage: launch/ngc.sh [options] [words of launch/node.sh and distcls train]

Trains in a container on NVIDIA's PyTorch image. The current folder and the data are mounted
read-only, the run folders and ~/.cache/distcls for writing, all at the paths that they have
outside. The files belong to you.

  --build             build the image first (Dockerfile; again after a change of its dependencies)
  --base IMAGE        image to build on (nvcr.io/nvidia/pytorch:25.12-py3)
  --image NAME        image to run (distcls)
  --data PATH         folder of images, or a .csv or .npz file, as for distcls train
  --runs DIR          where run folders lie (./runs)
  --gpus LIST         all, none, or numbers such as 0,1 (all)
  --host-network      the host's network, and InfiniBand where it has some (as with --nodes 2)
  --env NAME          hand over this environment variable; its value never shows in the command
  --stop-timeout SEC  time to save in after docker stop, before the container is killed (180)
  --engine NAME       docker or podman (the first that is there)
  --print             show the commands instead of running them

  launch/ngc.sh --build -c configs/digits.yaml
  launch/ngc.sh --data photos --name flowers train.num_epochs=40
END
}

base=nvcr.io/nvidia/pytorch:25.12-py3 image=distcls data='' runs=$PWD/runs gpus=all stop_timeout=180
build='' host_network='' engine='' print='' env=()
option() {
    case $1 in
    --build) build=1 ;;
    --host-network) host_network=1 ;;
    --print) print=1 ;;
    --base) base=$2 ;;
    --image) image=$2 ;;
    --data) data=$2 ;;
    --runs) runs=$2 ;;
    --gpus) gpus=$2 ;;
    --env) env+=("$2") ;;
    --stop-timeout) stop_timeout=$2 ;;
    --engine) engine=$2 ;;
    esac
}
sort_words "--build --host-network --print" "--base --image --data --runs --gpus --env --stop-timeout --engine" "$@"
set -- "${rest[@]}" "${after[@]}"
[ "$stop_timeout" -gt 30 ] 2>/dev/null || fail "--stop-timeout $stop_timeout: more than 30 seconds, or nothing is saved"

[ -n "$engine" ] || engine=$(find_engine)
# A container on the engine's own network cannot be reached by other machines.
nodes=$(value_of --nodes "$@")
! is_count "$nodes" || [ "$nodes" -le 1 ] || host_network=1
for name in "${env[@]}"; do
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
        fail "--env ${name%%=*}…: give the name alone, of a variable that you export, so that nobody sees its value"
    [ -n "${!name+set}" ] || fail "--env $name: there is no such variable. Type export $name=VALUE first"
done
env+=(WANDB_API_KEY HF_TOKEN MLFLOW_TRACKING_URI)

absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s' "$PWD/$1" ;; esac; }
make_folder() { [ -n "$print" ] || mkdir -p "$1" 2>/dev/null; }
# The folder is resolved where it is there: with --print it may not be.
resolved() { (cd "$1" 2>/dev/null && pwd) || absolute "$1"; }

mounts=("$PWD")
if [ -n "$data" ]; then
    if [ -d "$data" ]; then
        data=$(resolved "$data") mounts+=("$data")
    elif [ -f "$data" ]; then # images are named relative to a .csv file
        folder=$(resolved "$(dirname "$data")") data=$folder/$(basename "$data") mounts+=("$folder")
    else
        fail "--data $data: there is no such folder, or .csv or .npz file"
    fi
    set -- --data "$data" "$@"
fi
config=$(value_of "-c --config" "$@")
if [ -f "$config" ]; then
    config=$(resolved "$(dirname "$config")")/$(basename "$config")
    case $config in "$PWD"/*) ;; *) mounts+=("$config") ;; esac
else # the image has configs of its own
    case $config in '' | /opt/distcls/*) ;; *) fail "-c $config: there is no such file" ;; esac
fi
# The mount points must be there: the engine would make them as root, or fail below a read-only mount.
make_folder "$runs" || fail "--runs $runs: it cannot be made"
runs=$(resolved "$runs")
cache=${XDG_CACHE_HOME:-$HOME/.cache}
make_folder "$cache/distcls" || fail "$cache/distcls cannot be made: decoded images are kept there (XDG_CACHE_HOME)"

# NVIDIA's flags: https://docs.nvidia.com/deeplearning/frameworks/user-guide. Under a user id that the image
# does not know, Python finds no name and no home unless it is told.
options=(--rm --init --ipc=host --ulimit memlock=-1 --ulimit stack=67108864 --stop-timeout "$stop_timeout"
    --user "$(id -u):$(id -g)" --env "USER=$(id -un)" --env HOME=/tmp --env TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
    --env "XDG_CACHE_HOME=$cache" --mount "type=bind,source=$cache/distcls,target=$cache/distcls" --workdir "$PWD"
    --mount "type=bind,source=$runs,target=$runs")
while read -r path; do # an engine refuses a path that is mounted twice
    options+=(--mount "type=bind,source=$path,target=$path,readonly")
done < <(printf '%s\n' "${mounts[@]}" | sort -u)
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

# Only a build makes an image whose name says no registry: an engine would ask Docker Hub for a stranger's.
case $image in */*) ;; *) options+=(--pull never) ;; esac

if [ -n "$build" ]; then
    source=$(dirname "$here")
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$source/distcls/__init__.py")
    revision=$(git -C "$source" rev-parse HEAD 2>/dev/null) || revision=unknown
    build=("$engine" build --build-arg "BASE_IMAGE=$base" --build-arg "VERSION=$version"
        --build-arg "REVISION=$revision" --tag "$image" "$source")
    if [ -n "$print" ]; then printf '%q ' "${build[@]}" && echo; else "${build[@]}"; fi
fi
run=("$engine" run "${options[@]}" "$image" --stop-timeout $((stop_timeout - 30)) "$@")
if [ -n "$print" ]; then
    printf '%q ' "${run[@]}" && echo
    exit
fi
case $image in */*) ;; *)
    why=$("$engine" image inspect --format ok "$image" 2>&1 >/dev/null) ||
        fail "--image $image: $engine says: ${why:-no}. Where it was never built, add --build" 125 ;;
esac
exec "${run[@]}"
