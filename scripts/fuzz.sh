#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every fuzz target for some seconds, with AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   scripts/fuzz.sh                  60 s each
#   scripts/fuzz.sh 600              10 minutes each
#   scripts/fuzz.sh 600 config       only fuzz_config
#
# Needs clang. What a target starts from is tests/fuzz/corpus/NAME; it works on a copy in build-fuzz/corpus/NAME, which
# is kept, so that the next run goes on from there. An input that breaks something is left in build-fuzz/found/: put it
# into the corpus, where every test run replays it, and write a test that names the damage.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

seconds=${1:-60}
only=${2:-}
build="build-fuzz"

case $seconds in
  '' | *[!0-9]*)
    echo "usage: scripts/fuzz.sh [SECONDS [NAME]]" >&2
    exit 2
    ;;
esac

cmake --preset fuzz >/dev/null || exit 1
ninja -C "$build" -t targets all 2>/dev/null | sed -n 's|^bin/\(fuzz_[a-z0-9_]*\): .*|\1|p' | sort -u >"$build/targets" || exit 1
mapfile -t targets <"$build/targets"
if [ -n "$only" ]; then targets=("fuzz_$only"); fi
if [ ${#targets[@]} -eq 0 ]; then
  echo "fuzz.sh: there are no targets" >&2
  exit 1
fi
cmake --build --preset fuzz --target "${targets[@]}" || exit 1

failed=0
mkdir -p "$build/found"
for target in "${targets[@]}"; do
  name=${target#fuzz_}
  corpus=$build/corpus/$name
  log=$build/found/$name.log
  mkdir -p "$corpus"
  cp -n tests/fuzz/corpus/"$name"/* "$corpus"/ 2>/dev/null
  dict=()
  if [ -f "tests/fuzz/$name.dict" ]; then dict=(-dict="tests/fuzz/$name.dict"); fi
  "$build/bin/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/found/$name-" "${dict[@]}" "$corpus" >"$log" 2>&1
  rc=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if [ $rc -eq 0 ]; then
    echo "$name: ${runs:-?} runs, nothing found"
  else
    failed=$((failed + 1))
    echo "$name: FAILED after ${runs:-?} runs; the end of $log:"
    tail -n 25 "$log" | sed 's/^/   | /'
  fi
done
echo "${#targets[@]} targets, $failed failed"
[ $failed -eq 0 ]
