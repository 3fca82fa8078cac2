#!/usr/bin/env bash
# Logs the container engine in to NVIDIA's registry. The key goes through a file or a prompt, never through a command.
set -euo pipefail
# shellcheck source=launch/words.bash
. "$(dirname "$(readlink -f "$0")")/words.bash"

help() {
    cat <<'END'
usage: launch/ngc_login.sh [--key-file FILE] [--engine docker|podman]

Logs in to nvcr.io, for images that need an NGC key; nvcr.io/nvidia/pytorch needs none. The key is
asked for, or read from FILE, which only you may read. Keys: https://org.ngc.nvidia.com/setup
END
}

key_file='' engine=''
option() {
    case $1 in
    --key-file) key_file=$2 ;;
    --engine) engine=$2 ;;
    esac
}
sort_words "" "--key-file --engine" "$@"
set -- "${rest[@]}" "${after[@]}"
[ $# -eq 0 ] || fail "$1 is not an option (see --help); a key is never given as a word, where other users would see it"

if [ -n "$key_file" ]; then
    [ -r "$key_file" ] || fail "--key-file $key_file: there is no such file, or you may not read it"
    [ -z "$(find -L "$key_file" -perm /077)" ] || fail "--key-file $key_file: others may read it. chmod 600 $key_file"
    key=$(<"$key_file")
elif [ -t 0 ]; then
    read -rsp 'NGC key: ' key && echo
else
    fail "there is no terminal to ask for the key: --key-file FILE"
fi
[ -n "$key" ] || fail "the key is empty"

[ -n "$engine" ] || engine=$(find_engine)
# printf is a part of the shell: its words are in no list of processes.
# shellcheck disable=SC2016 # NVIDIA's user name is these characters
printf '%s' "$key" | "$engine" login nvcr.io --username '$oauthtoken' --password-stdin
