#!/usr/bin/env bash
# Starts the processes of this machine: the one place that knows torchrun's command line.
set -euo pipefail
# shellcheck source=launch/words.bash
. "$(dirname "$(readlink -f "$0")")/words.bash"

help() {
    cat <<'END'
usage: launch/node.sh [options] [words of distcls train]

Trains on this machine, one process for each GPU. To train on several machines, type it on each of
them, with its own --rank. All need the data at the same place; the run folder is on the head.

  --nodes N             number of machines (1)
  --rank R              which of them this is, 0 to N-1; the output is shown by 0, the head
  --head HOST[:PORT]    address of the head, as the others reach it (port 29400)
  --unchecked-head      do not check whether --head is this machine (NAT, a Kubernetes service)
  --wait SEC            how long the machines wait for each other at the start (600)
  --interface NAME      network interface between the machines (the one that leads to the head)
  --processes N         processes on this machine (its GPUs, or 1)
  --bind MODE           bind processes to CPUs near their GPU: node, socket, exclusive, core-complex
  --stop-timeout SEC    time to save in after a signal, before the processes are killed (120)
  --print               show the command instead of running it

  launch/node.sh -c configs/digits.yaml
  launch/node.sh --processes 4 run.device=cpu
  launch/node.sh --nodes 2 --rank 0 --head 10.0.0.1 -c configs/digits.yaml

TERM, INT, HUP, USR1 or USR2: all machines save the same step and leave. Exit codes are those of
distcls: 75 means, type the same again. PYTHON=FILE chooses another Python than the first on PATH.
END
}

nodes=1 rank='' head='' interface='' processes='' bind='' stop_timeout=120 patience=600 print='' unchecked=()
option() {
    case $1 in
    --nodes) nodes=$2 ;;
    --rank) rank=$2 ;;
    --head) head=$2 ;;
    --unchecked-head) unchecked=("$1") ;;
    --wait) patience=$2 ;;
    --interface) interface=$2 ;;
    --processes) processes=$2 ;;
    --bind) bind=$2 ;;
    --stop-timeout) stop_timeout=$2 ;;
    --print) print=1 ;;
    esac
}
sort_words "--print --unchecked-head" \
    "--nodes --rank --head --wait --interface --processes --bind --stop-timeout" "$@"
words=("${rest[@]}" "${after[@]:1}")

is_count "$nodes" && [ "$nodes" -gt 0 ] || fail "--nodes $nodes: a number of machines, 1 or more"
is_count "$stop_timeout" || fail "--stop-timeout $stop_timeout: a number of seconds"
is_count "$patience" && [ "$patience" -gt 0 ] || fail "--wait $patience: a number of seconds, 1 or more"

python=${PYTHON:-$(command -v python || command -v python3)} || fail "there is no python on PATH: give PYTHON=FILE"

count_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[[:space:]]*[^-[:space:]]' || true # -1 means none
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --list-gpus | grep -c '^GPU' || true
    else
        echo 0
    fi
}
gpus=$(count_gpus)
[ -n "$processes" ] || processes=$((gpus > 0 ? gpus : 1))
is_count "$processes" && [ "$processes" -gt 0 ] || fail "--processes $processes: a number of processes, 1 or more"
[ -z "$bind" ] || [ "$gpus" -gt 0 ] || fail "--bind $bind: there is no GPU here for processes to be near to"

# torchrun binds by calling numactl, and fails where there is none.
if [ -n "$bind" ] && ! command -v numactl >/dev/null; then
    echo "node.sh: processes are not bound to CPUs near their GPU, for there is no numactl here: apt install numactl" >&2
    bind=''
fi
# A torch that finds no CUDA would train on the CPU without a word. Where there are GPUs and nothing else is asked for,
# they are asked for by name, and distcls says what is wrong.
if [ "$gpus" -gt 0 ]; then
    device=$("$python" -m distcls.train "${words[@]}" --print-config 2>/dev/null | sed -n 's/^  device: //p') || true
    [ "$device" != auto ] || words+=(run.device=cuda)
fi

if [ "$nodes" -eq 1 ]; then
    [ -z "$rank$head" ] || fail "--rank and --head are for several machines: give --nodes N too"
    [ -z "$interface" ] || interface=$("$python" -m distcls.commands.network --interface "$interface")
    rendezvous=(--standalone --local-addr 127.0.0.1)
else
    is_count "$rank" && [ "$rank" -lt "$nodes" ] || fail "--rank '$rank': which of the $nodes machines is this? 0 to $((nodes - 1))"
    [ -n "$head" ] || fail "--head HOST is missing: the address of machine 0, the same on all machines"
    port=29400
    [[ ! $head =~ ^([^:]+|\[.*\]):([0-9]+)$ ]] || { head=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}; }
    [ "$port" -ge 1 ] && [ "$port" -le 65535 ] || fail "--head $head:$port: a port is a number from 1 to 65535"
    host=${head#[} host=${host%]}
    case $host in localhost | localhost.* | 127.* | ::1 | 0.0.0.0 | ::)
        fail "--head $head: that is every machine itself. Give the address of machine 0, as the others reach it" ;;
    esac
    interface=$("$python" -m distcls.commands.network --head "$host" --rank "$rank" "${unchecked[@]}" \
        ${interface:+--interface "$interface"})
    retries=$(cat /proc/sys/net/ipv4/tcp_retries2 2>/dev/null || echo 0)
    [ "$retries" -le 8 ] || echo "node.sh: a machine that vanishes is noticed after some 15 minutes;" \
        "after 2 with: sudo sysctl -w net.ipv4.tcp_retries2=8" >&2
    # torchrun numbers the machines in the order of their addresses, and uses only that of the first. All but
    # the head give a name that comes after any address, so that --rank is the number that they get.
    is_host=false local_addr=$(printf '~%05d' "$rank")
    [ "$rank" -gt 0 ] || is_host=true local_addr=$host
    rendezvous=(--rdzv-backend c10d --rdzv-endpoint "$head:$port" --rdzv-id distcls
        --rdzv-conf "is_host=$is_host,join_timeout=$patience,read_timeout=$patience" --local-addr "$local_addr")
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / processes > 0 ? $(nproc) / processes : 1))}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=$stop_timeout TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
if [ -n "$interface" ]; then
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$interface}
fi
command=("$python" -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$processes" "${rendezvous[@]}"
    --max-restarts 0 ${bind:+--numa-binding "$bind"} -m distcls.train "${words[@]}")

if [ -n "$print" ]; then
    env | grep -E '^(OMP_NUM_THREADS|TORCH_ELASTIC_SHUTDOWN_TIMEOUT|(GLOO|NCCL)_SOCKET_IFNAME)=' | sort | tr '\n' ' '
    printf '%q ' "${command[@]}"
    echo
    exit
fi

# torchrun turns every failure into 1, so each process notes its own exit code. In a session of its own,
# torchrun hears of a Ctrl-C once, from here, and not a second time from the terminal.
notes=$(mktemp -d)
export DISTCLS_EXIT_CODES=$notes/exit_codes TORCHELASTIC_ERROR_FILE=$notes/torchrun
touch "$DISTCLS_EXIT_CODES" "$TORCHELASTIC_ERROR_FILE"
trap 'rm -rf "$notes"' EXIT
if [ "$nodes" -gt 1 ]; then
    if [ "$rank" -eq 0 ]; then
        echo "node.sh: waiting for $((nodes - 1)) other machine(s) at $head:$port, up to $patience s" >&2
    else
        echo "node.sh: waiting for the head at $head:$port, up to $patience s" >&2
    fi
fi
torchrun='' asked=''
stop() { asked=1 && { [ -z "$torchrun" ] || kill -TERM "$torchrun" 2>/dev/null || true; }; }
trap stop TERM INT HUP USR1 USR2
setsid "${command[@]}" &
torchrun=$!
[ -z "$asked" ] || stop
code=0
while wait "$torchrun" || code=$?; kill -0 "$torchrun" 2>/dev/null; do code=0; done
if [ "$code" -ne 0 ]; then
    noted=$(grep -v '^0$' "$DISTCLS_EXIT_CODES" | sort -n | head -n 1) || true
    code=${noted:-$code}
fi
# What torchrun says of machines that do not find each other is long, and names no machine.
if [ "$nodes" -gt 1 ] && [ -z "$asked" ] && [ ! -s "$DISTCLS_EXIT_CODES" ] && grep -q Rendezvous "$TORCHELASTIC_ERROR_FILE"; then
    if grep -q RendezvousTimeoutError "$TORCHELASTIC_ERROR_FILE"; then
        fail "not all $nodes machines came to $head:$port: is node.sh started on each of them, with its own --rank and the same --nodes?" 1
    elif [ "$rank" -eq 0 ]; then
        fail "port $port cannot be opened: does another run use it? Give all machines another one, --head $head:PORT" 1
    fi
    fail "no answer from $head:$port: is rank 0 started, and is the port open?" 1
fi
[ "$code" -ne 75 ] || echo "node.sh: stopped, and all is saved: type the same command again to go on" >&2
exit "$code"
