#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs an engine on two hosts with two ranks each, on one machine: two network namespaces with host names of their own, joined
# by a veth pair, with mpirun between them. Compares the logits with those of one rank.
#
#   scripts/netns.sh TENON ENGINE IDS.safetensors [flags of the parallel run; default: --tp-size 2 --pp-size 2]
#
# Needs root, `ip` and mpirun. Where namespaces are not permitted it says so and exits with 77.
set -euo pipefail

if [ "${NETNS_AGENT:-}" = yes ]; then
  # Called by mpirun in place of ssh: HOST COMMAND...
  while [[ ${1:-} == -* ]]; do shift; done
  shift
  exec ip netns exec "$NETNS_B" unshare --uts sh -c 'hostname tenon-host-b; exec sh -c "$*"' sh "$@"
fi

if [ $# -lt 3 ]; then
  sed -n '3,9s/^# \{0,1\}//p' "$0"
  exit 2
fi
tenon=$(realpath "$1")
engine=$(realpath "$2")
ids=$(realpath "$3")
shift 3
flags=("$@")
[ ${#flags[@]} -gt 0 ] || flags=(--tp-size 2 --pp-size 2)

skip() {
  echo "netns.sh: skipped: $1"
  exit 77
}

command -v mpirun >/dev/null || skip "there is no mpirun"
command -v ip >/dev/null || skip "there is no ip (Debian: iproute2)"
a=tenon-a-$$ b=tenon-b-$$
work=$(mktemp -d)

# What mpirun left behind, if it was cut off.
end_ranks() {
  for side in "$a" "$b"; do
    # shellcheck disable=SC2046
    kill -KILL $(ip netns pids "$side" 2>/dev/null) 2>/dev/null || true
  done
}

cleanup() {
  end_ranks
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

if ! ip netns add "$a" 2>/dev/null || ! ip netns add "$b" 2>/dev/null; then
  skip "network namespaces are not permitted here"
fi
unshare --uts true 2>/dev/null || skip "host name namespaces are not permitted here"
ip link add "va$$" netns "$a" type veth peer name "vb$$" netns "$b"
ip -n "$a" addr add 10.213.7.1/24 dev "va$$"
ip -n "$b" addr add 10.213.7.2/24 dev "vb$$"
for side in "$a va$$" "$b vb$$"; do
  # shellcheck disable=SC2086
  set -- $side
  ip -n "$1" link set lo up
  ip -n "$1" link set "$2" up
done

export NETNS_AGENT=yes NETNS_B=$b OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
run=(mpirun -n 4 --host "10.213.7.1:2,10.213.7.2:2" --oversubscribe --map-by node
  --mca plm_rsh_agent "$(realpath "$0")" --mca btl "tcp,self" --mca btl_tcp_if_include 10.213.7.0/24
  --mca oob_tcp_if_include 10.213.7.0/24 --mca plm_rsh_no_tree_spawn 1)
cut_off() {
  [ "$1" = 124 ] || [ "$1" = 137 ]
}

# Each rank leaves a mark before it becomes tenon. Waits of ours for other ranks end sooner than the run is cut off, so that they are
# errors with a message; what is cut off hangs elsewhere.
# shellcheck disable=SC2016
two_hosts() {
  local code=0
  rm -f "$work"/rank.*
  timeout -k 5 80 ip netns exec "$a" unshare --uts sh -c 'hostname tenon-host-a; exec "$@"' sh \
    "${run[@]}" sh -c 'touch "$0.$OMPI_COMM_WORLD_RANK"; exec "$@"' "$work/rank" \
    "$tenon" eval logits --engine "$engine" --ids "$ids" --out "$work/two.safetensors" \
    --set parallel.join_timeout_ms=40000 --set parallel.step_timeout_ms=30000 "${flags[@]}" >"$work/said" 2>&1 || code=$?
  # shellcheck disable=SC2009
  if cut_off "$code"; then ps -eo pid,stat,wchan:24,etimes,args | grep -E 'mpirun|orted|[t]enon eval' || true; fi
  end_ranks
  cat "$work/said"
  return "$code"
}

# A run was once cut off without a word, and what had hung was not seen. MPI's own start, its launcher's or MPI_Init, is not what this
# tests: if that is what hangs, and only then, it is tried a second time.
started_badly() {
  local started
  cut_off "$1" || return 1
  started=$(find "$work" -name 'rank.*' | wc -l)
  echo "netns.sh: cut off: $started of 4 ranks were started"
  [ "$started" -lt 4 ] || grep -q 'MPI_Init_thread has not returned' "$work/said"
}

code=0
two_hosts || code=$?
if started_badly "$code"; then
  echo "netns.sh: MPI did not start; once more"
  code=0
  two_hosts || code=$?
fi
[ "$code" = 0 ] || exit "$code"
"$tenon" eval logits --engine "$engine" --ids "$ids" --out "$work/one.safetensors" --tp-size 1 --pp-size 1

python3 - "$work/one.safetensors" "$work/two.safetensors" <<'PY'
import array, json, struct, sys

def logits(path):
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        begin, end = json.loads(f.read(n))["logits"]["data_offsets"]
        f.seek(8 + n + begin)
        return array.array("f", f.read(end - begin))

one, two = logits(sys.argv[1]), logits(sys.argv[2])
worst = max(abs(a - b) for a, b in zip(one, two))
print("netns.sh: 2 hosts x 2 ranks: logits of %d entries differ by at most %.3g" % (len(one), worst))
sys.exit(0 if len(one) == len(two) and worst <= 2e-3 else 1)
PY
