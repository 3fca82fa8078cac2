#!/usr/bin/env bash
# Trains on one or several DGX machines, in the container, with what launch/platforms/ says of the model.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/words.bash
. "$here/words.bash"

help() {
    cat <<'END'
usage: launch/dgx.sh PLATFORM [options] [words of distcls train]

Trains on a DGX with all of its GPUs. PLATFORM is a file of launch/platforms: dgx-a100, dgx-h100 ...
To train on several, type it on each of them, with its own --rank.

  --nodes N, --rank R, --head HOST[:PORT], --interface NAME ...   as for launch/node.sh
  --data DIR, --runs DIR, --image NAME, --build, --base IMAGE ... as for launch/ngc.sh
  --bare    without a container, and so without the options of launch/ngc.sh but --data
  --print   show the command instead of running it

  launch/dgx.sh dgx-h100 --build -c configs/digits.yaml
  launch/dgx.sh dgx-h100 --nodes 2 --rank 0 --head 10.0.0.1 --data /raid/photos --name flowers
END
}

[ $# -gt 0 ] || { help && exit; }
bare='' print=() container=()
option() {
    case $1 in
    --bare) bare=1 ;;
    --print) print=("$1") ;;
    *) container+=("$@") ;;
    esac
}
sort_words "--bare --print --build --host-network" "--image --base --runs --gpus --env --engine" "$@"
name=${rest[0]:-}
platform=$here/platforms/$name.yaml
[[ $name =~ ^[a-z0-9-]+$ && -r $platform ]] ||
    fail "${name:-nothing} is not a platform: they are $(cd "$here/platforms" && printf '%s ' *.yaml | sed 's/\.yaml//g')"
words=("${rest[@]:1}" "${after[@]}")
[ -z "$bare" ] || [ ${#container[@]} -eq 0 ] || fail "--bare is without a container: ${container[0]} means nothing there, leave it out"

# The files are flat: `gpus` and `bind`, and environment variables in capitals.
setting() { sed -n "s/^$1: *\"\{0,1\}\([^\"#]*[^\"# ]\)\"\{0,1\} *\(#.*\)\{0,1\}$/\1/p" "$platform"; }
names=$(sed -n 's/^\([A-Z][A-Z0-9_]*\):.*/\1/p' "$platform")
for name in $names; do
    [ -n "${!name+set}" ] || export "$name=$(setting "$name")" # what you export yourself goes first
    container+=(--env "$name")
done
node=(--processes "$(setting gpus)" --bind "$(setting bind)")

if [ -n "$bare" ]; then
    exec "$here/node.sh" "${print[@]}" "${node[@]}" "${words[@]}"
fi
exec "$here/ngc.sh" "${print[@]}" "${container[@]}" "${node[@]}" "${words[@]}"
