#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every test that needs a GPU, on a machine that may have nothing but the source tree and a build of it.
#
#   scripts/check-gpu.sh [BUILD]     BUILD is the build directory (build)
#
# Kernels against the reference set, the models' goldens, and the runtime's own tests on the device; with compute-sanitizer on
# the path, the kernels once more under memcheck and racecheck, on small shapes. The reference set computes on the host and
# takes the time, so that the cases are shared among as many processes as there are cores.
#
# GPU_BUDGET=SECONDS ends it then: what was not run, or not to its end, is named, and the exit status is 2.
# ONLY=PART[,PART...] runs these alone, where a machine is not to be had for long: variants, models, memcheck, racecheck.
# Exit status 77: there is no usable GPU. 1: something failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$(realpath "${1:-build}")
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
failed=0
missed=0
budget=${GPU_BUDGET:-0}
parts=${ONLY:-variants,models,memcheck,racecheck}

# asked PART
asked() { [[ ",$parts," == *",$1,"* ]]; }

for part in ${parts//,/ }; do
  [[ $part =~ ^(variants|models|memcheck|racecheck)$ ]] || {
    echo "check-gpu: ONLY=$part is none of variants, models, memcheck, racecheck"
    exit 1
  }
done

if ! "$build/bin/tenon" plugin list | grep -q '^loaded  *cuda '; then
  "$build/bin/tenon" plugin list | grep -A1 ' cuda ' || echo "this build has no CUDA plugin"
  echo "check-gpu: no usable GPU"
  exit 77
fi

# left: seconds of the budget that are left; a day if there is none.
left() { if [ "$budget" = 0 ]; then echo 86400; else echo $((budget - SECONDS)); fi; }

# run NAME COMMAND...: prints one line, and what was said if it failed.
run() {
  local name=$1 begin=$SECONDS rest status=0
  shift
  rest=$(left)
  if [ "$rest" -lt 5 ]; then
    printf 'NOT RUN %-32s the budget of %s s is spent\n' "$name" "$budget"
    missed=1
    return
  fi
  timeout -k 5 "$rest" "$@" >"$log/out" 2>&1 || status=$?
  if [ "$status" = 0 ]; then
    printf 'ok      %-32s %4d s\n' "$name" $((SECONDS - begin))
  elif [ "$status" = 124 ] || [ "$status" = 137 ]; then
    printf 'CUT     %-32s %4d s: the budget of %s s is spent\n' "$name" $((SECONDS - begin)) "$budget"
    grep -E ': [0-9]+ cases$' "$log/out" | tail -n 3
    missed=1
  else
    printf 'FAILED  %-32s %4d s\n' "$name" $((SECONDS - begin))
    grep -vE ' (info|debug)  ' "$log/out" | tail -n 30
    failed=1
  fi
}

# shared PROCESSES COMMAND...: the same test in several processes that take turns at its cases; the first failure's status.
shared() {
  local n=$1 i pids=() status=0
  shift
  for ((i = 0; i < n; i++)); do
    env TENON_TEST_SHARE="$i/$n" "$@" >"$log/share.$i" 2>&1 &
    pids+=($!)
  done
  # What ends this ends them, too.
  trap 'kill "${pids[@]}" 2>/dev/null' TERM
  for ((i = 0; i < n; i++)); do
    wait "${pids[$i]}" || { status=$?; tail -n 15 "$log/share.$i"; }
  done
  return "$status"
}

# raceless PROCESSES: whether racecheck, in each of them, came to its end and said of no kernel of ours that it races. It says so
# of kernels of cuBLASLt ("nvjet") that split K of a product in FP8. Those cannot be left out of what it watches, by
# --kernel-name-exclude: the tool of CUDA 13.0 then ends them by an illegal access.
raceless() {
  local i status=0
  for ((i = 0; i < $1; i++)); do
    grep -q 'RACECHECK SUMMARY' "$log/share.$i" || { echo "racecheck did not end in process $i"; status=1; }
    ! grep -E 'Race reported|Internal Sanitizer Error' "$log/share.$i" | grep -v ' nvjet' || status=1
  done
  return "$status"
}

# raced PROCESSES COMMAND...: as shared, under racecheck.
raced() { shared "$@" && raceless "$1"; }
export -f shared raceless raced
export log

# What CUDA starts does not survive a fork, so that Check must not fork between a fixture and its test.
export CK_FORK=no
export TENON_TEST_PLUGINS="$build/lib/tenon/plugins" # the tests know where they were built, which may be elsewhere
cores=$(nproc)
processes=$((cores < 16 ? cores : 16))

if asked variants && [ -x "$build/bin/test_gpu_variants" ]; then
  for dtype in bfloat16 float16 float32; do
    run "gpu_variants $dtype" env CK_RUN_CASE=$dtype bash -c 'shared "$@"' shared "$processes" "$build/bin/test_gpu_variants"
  done
fi
! asked variants || [ ! -x "$build/bin/test_kernels_sample" ] || run kernels_sample "$build/bin/test_kernels_sample"
# Every set alone where it can be, then the choice that users get.
for sets in hopper,ampere,cuda cuda hopper,cuda ampere,cuda; do
  asked models || break
  for set in ${sets//,/ }; do
    [ -e "$build/lib/tenon/plugins/$set.so" ] || continue 2
  done
  run "goldens $sets" env TENON_TEST_DEVICE=cuda TENON_TEST_SETS="$sets" \
    bash -c 'shared "$@"' shared "$processes" "$build/bin/test_goldens"
  run "api $sets" env TENON_TEST_DEVICE=cuda TENON_TEST_SETS="$sets" "$build/bin/test_api"
done
if command -v compute-sanitizer >/dev/null && [ -x "$build/bin/test_gpu_variants" ]; then
  ! asked memcheck || run "gpu_variants under memcheck" env GPU_SMALL=1 bash -c 'shared "$@"' shared "$processes" \
    compute-sanitizer --tool memcheck --error-exitcode 1 "$build/bin/test_gpu_variants"
  ! asked racecheck || run "gpu_variants under racecheck" env GPU_SMALL=1 bash -c 'raced "$@"' raced "$processes" \
    compute-sanitizer --tool racecheck "$build/bin/test_gpu_variants"
fi
[ "$missed" = 0 ] || echo "check-gpu: not everything was run"
[ "$failed" = 0 ] || exit 1
[ "$missed" = 0 ] || exit 2
