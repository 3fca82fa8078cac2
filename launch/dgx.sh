#!/usr/bin/env bash
# Trains on one or several DGX machines, in the container, with what launch/platforms/ says of the model.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

help() {
    cat <<'END'
usage: launch/dgx.sh PLATFORM [options] [words of distcls train]

Trains on a DGX with all of its GPUs. PLATFORM is a file of launch/platforms: dgx-a100, dgx-h100 ...
To train on several, type it on each of them, with its own --rank.

  --nodes N, --rank R, --head HOST[:PORT], --interface NAME     as for launch/node.sh
  --data DIR, --runs DIR, --image NAME, --build, --base IMAGE   as for launch/ngc.sh
  --bare    without a container
  --print   show the command instead of running it

  launch/dgx.sh dgx-h100 --build -c configs/digits.yaml
  launch/dgx.sh dgx-h100 --nodes 2 --rank 0 --head 10.0.0.1 --data /raid/photos --name flowers
END
}

fail() {
    printf 'dgx.sh: error: %s\n' "$1" >&2
    exit 2
}

case ${1:-} in '' | -h | --help) help && exit ;; esac
platform=$here/platforms/$1.yaml
[ -r "$platform" ] || fail "$1 is not a platform: they are $(cd "$here/platforms" && printf '%s ' *.yaml | sed 's/\.yaml//g')"
shift

node=() container=() bare='' print=()
while [ $# -gt 0 ]; do
    case $1 in
    --nodes | --rank | --head | --interface | --data | --runs | --image | --base)
        [ $# -gt 1 ] || fail "$1 needs a value (see --help)" ;;
    esac
    case $1 in
    -h | --help) help && exit ;;
    --bare) bare=1 && shift ;;
    --print) print=(--print) && shift ;;
    --build) container+=("$1") && shift ;;
    --nodes) container+=(--host-network) && node+=("$1" "$2") && shift 2 ;;
    --rank | --head | --interface) node+=("$1" "$2") && shift 2 ;;
    --data | --runs | --image | --base) container+=("$1" "$2") && shift 2 ;;
    *) break ;;
    esac
done

# The files are flat: `gpus` and `bind`, and environment variables in capitals.
setting() { sed -n "s/^$1: *\"\{0,1\}\([^\"#]*[^\"# ]\)\"\{0,1\} *\(#.*\)\{0,1\}$/\1/p" "$platform"; }
names=$(sed -n 's/^\([A-Z][A-Z0-9_]*\):.*/\1/p' "$platform")
for name in $names; do
    [ -n "${!name+set}" ] || export "$name=$(setting "$name")" # what you export yourself goes first
    container+=(--env "$name")
done
node+=(--processes "$(setting gpus)" --bind "$(setting bind)")

if [ -n "$bare" ]; then
    exec "$here/node.sh" "${print[@]}" "${node[@]}" "$@"
fi
exec "$here/ngc.sh" "${print[@]}" "${container[@]}" -- "${node[@]}" "$@"
