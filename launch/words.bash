# shellcheck shell=bash
# How the launchers read their words: sourced by them. Each has a function `help`, and a function `option` that takes
# the name and the value of one of its options.

# Says what is wrong, and leaves: with 2, as for any mistake in the words, or another code.
fail() {
    printf '%s: error: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-2}"
}

# sort_words FLAGS OPTIONS WORD...: gives the launcher's own words to `option`, wherever they are among the others,
# as --nodes 2 or --nodes=2. The others are left in `rest`, and what follows a `--` in `after`, with the `--`.
# shellcheck disable=SC2034 # they are read by whoever sources this
sort_words() {
    local flags=$1 options=$2 name
    shift 2
    rest=() after=()
    while [ $# -gt 0 ]; do
        name=${1%%=*}
        if [ "$1" = -h ] || [ "$1" = --help ]; then
            help && exit
        elif [ "$1" = -- ]; then
            after=("$@") && return
        elif [[ $name != --* || $name == *[[:space:]]* || " $flags $options " != *" $name "* ]]; then
            rest+=("$1") && shift
        elif [[ " $flags " == *" $name "* ]]; then
            [ "$1" = "$name" ] || fail "$1: $name takes no value (see --help)"
            option "$1" && shift
        elif [ "$1" = "$name" ]; then
            [ $# -gt 1 ] || fail "$1 needs a value (see --help)"
            option "$1" "$2" && shift 2
        else
            option "$name" "${1#*=}" && shift
        fi
    done
}

# value_of NAMES WORD...: the value of the last option among the words that has one of these names, or nothing.
value_of() {
    local names=$1 value=''
    shift
    while [ $# -gt 0 ]; do
        if [[ " $names " == *" $1 "* ]]; then value=${2:-}; fi
        if [[ $1 == --*=* && " $names " == *" ${1%%=*} "* ]]; then value=${1#*=}; fi
        shift
    done
    printf '%s' "$value"
}

is_count() { [[ $1 =~ ^[0-9]+$ ]]; }

# The container engine that is here: docker before podman.
find_engine() {
    local path
    path=$(command -v docker || command -v podman) || fail "neither docker nor podman is on PATH: install one, or give --engine FILE"
    printf '%s' "${path##*/}"
}
