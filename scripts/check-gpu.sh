#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every test that needs a GPU, on a machine that may have nothing but the source tree and a build of it.
#
#   scripts/check-gpu.sh [BUILD]     BUILD is the build directory (build)
#
# Kernels against the reference set, the models' goldens, and the runtime's own tests on the device; with compute-sanitizer on
# the path, the kernels once more under memcheck and racecheck, on small shapes. Exit status 77: there is no usable GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$(realpath "${1:-build}")
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
failed=0

if ! "$build/bin/tenon" plugin list | grep -q '^loaded  *cuda '; then
  "$build/bin/tenon" plugin list | grep -A1 ' cuda ' || echo "this build has no CUDA plugin"
  echo "check-gpu: no usable GPU"
  exit 77
fi

# run NAME COMMAND...: prints one line, and what was said if it failed.
run() {
  local name=$1 begin=$SECONDS
  shift
  if "$@" >"$log/out" 2>&1; then
    printf 'ok      %-32s %4d s\n' "$name" $((SECONDS - begin))
  else
    printf 'FAILED  %-32s %4d s\n' "$name" $((SECONDS - begin))
    grep -vE ' (info|debug)  ' "$log/out" | tail -n 30
    failed=1
  fi
}

export CK_DEFAULT_TIMEOUT=300
for test in gpu_variants kernels_sample; do
  [ ! -x "$build/bin/test_$test" ] || run "$test" "$build/bin/test_$test"
done
# Every set alone where it can be, then the choice that users get.
for sets in cuda hopper,cuda ampere,cuda hopper,ampere,cuda; do
  for set in ${sets//,/ }; do
    [ -e "$build/lib/tenon/plugins/$set.so" ] || continue 2
  done
  run "goldens $sets" env TENON_TEST_DEVICE=cuda TENON_TEST_SETS="$sets" "$build/bin/test_goldens"
  # Its fixture loads plugins, and what CUDA starts does not survive a fork.
  run "api $sets" env CK_FORK=no TENON_TEST_DEVICE=cuda TENON_TEST_SETS="$sets" "$build/bin/test_api"
done
if command -v compute-sanitizer >/dev/null && [ -x "$build/bin/test_gpu_variants" ]; then
  for tool in memcheck racecheck; do
    run "gpu_variants under $tool" env GPU_SMALL=1 CK_FORK=no \
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/bin/test_gpu_variants"
  done
fi
exit $failed
